"""One step's gradient beside the one's before, for the cosine between them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.optim import Optimizer

from lightning_gradtools._lightning.gradient_pass import optimizer_parameters
from lightning_gradtools.callbacks.gradient_monitor.report import Section
from lightning_gradtools.gradients.direction import inner_products
from lightning_gradtools.gradients.norms import GradientNorms


@dataclass(frozen=True)
class _Copy:
    """The gradients of one optimizer's step."""

    step: int
    parameters: Sequence[Tensor]
    gradients: list[Tensor]


class SuccessiveGradients:
    """Copies of the gradients of one step, for one step, by the optimizer's index."""

    def __init__(self) -> None:
        self._last: dict[int, _Copy] = {}
        self._new: dict[int, _Copy] = {}

    def keep(self, step: int, index: int, optimizer: Optimizer) -> None:
        """Copy the gradients of ``optimizer``, to compare those of step ``step + 1`` with."""
        parameters = [each for each in optimizer_parameters(optimizer) if each.grad is not None]
        copies = [each.grad.clone() for each in parameters if each.grad is not None]
        self._new[index] = _Copy(step, parameters, copies)

    def end_batch(self) -> None:
        """Make this step's copies those of the step before."""
        if self._new:
            self._last, self._new = self._new, {}

    def compare(self, step: int, index: int, norms: GradientNorms) -> Iterator[Section]:
        """Yield the inner products that the cosine is made of, unless the step before had other parameters."""
        last = self._last.get(index)
        if last is None or last.step != step - 1 or list(map(id, last.parameters)) != list(map(id, norms.parameters)):
            return
        now, before = norms.gradients(), last.gradients
        for quantity, pair in {
            "inner_product": (now, before),
            "square_now": (now, now),
            "square_before": (before, before),
        }.items():
            yield Section(quantity, per_parameter=inner_products(*pair))

    def clear(self) -> None:
        """Let go of all copies."""
        self._last.clear()
        self._new.clear()
