"""Parameters that get a gradient, of which no optimizer knows."""

from collections.abc import Iterable

from lightning.pytorch import Trainer
from torch import Tensor

from lightning_gradtools._lightning.gradient_pass import optimizer_parameters


def unoptimized(trainer: Trainer, parameters: Iterable[Tensor]) -> list[Tensor]:
    """Return those of ``parameters`` that have a gradient and are in no optimizer of the run.

    Frozen ones have no gradient, nor have those of another network while Lightning's ``toggle_optimizer`` sets theirs
    aside.
    """
    with_gradient = [each for each in parameters if each.requires_grad and each.grad is not None]
    known = {id(each) for optimizer in trainer.optimizers for each in optimizer_parameters(optimizer)}
    return [each for each in with_gradient if id(each) not in known]
