"""Parameters that get a gradient, and that nobody changes."""

from collections.abc import Iterable

from lightning.pytorch import Trainer
from torch import Tensor

from lightning_gradtools._lightning.gradient_pass import optimizer_parameters


class Unoptimized:
    """Knows the parameters in no optimizer, from one sampled step to the next."""

    def __init__(self) -> None:
        self._step = -1
        self._before: dict[int, int] = {}  # versions by id
        self._now: dict[int, int] = {}

    def find(self, trainer: Trainer, parameters: Iterable[Tensor], step: int) -> list[Tensor]:
        """Return those of ``parameters`` that have a gradient and that neither an optimizer nor anybody else changes.

        Frozen ones have no gradient, nor have those of another network while Lightning's ``toggle_optimizer`` sets
        theirs aside. What has been written to since the sample before, as by an optimizer that Lightning does not know
        or a moving average, is looked after; so the first sample that shows a parameter finds nothing.

        Args:
            trainer: the run, with all its optimizers.
            parameters: of its module.
            step: which sample this is; asked again in one, it finds what has a gradient by then.
        """
        if step != self._step:
            self._step, self._before, self._now = step, self._now, {}
        with_gradient = [each for each in parameters if each.requires_grad and each.grad is not None]
        known = {id(each) for optimizer in trainer.optimizers for each in optimizer_parameters(optimizer)}
        left_out = [each for each in with_gradient if id(each) not in known]
        for each in left_out:
            self._now.setdefault(id(each), each._version)
        return [each for each in left_out if self._before.get(id(each)) == each._version]
