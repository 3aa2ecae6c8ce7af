"""Ways to train that are more than a loss of an output and a target."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from detection.data import Data
from detection.experiment import Experiment
from detection.recipe import Recipe, trained

Trained = Callable[[Any, Tensor, Tensor, int], Tensor]
Judged = Callable[[Any, Tensor, Tensor], Tensor]


class Method(Experiment):
    """A network that is trained by a loss which calls it as it likes, and judged by another.

    Args:
        net: the network, or several in a `ModuleDict`.
        optimizer: called with the trainable parameters.
        trained_by: called with the network, inputs, targets and the step; returns the loss.
        judged_by: called with the network, inputs and targets; returns the objective.
        schedule: factor of the learning rate at each step.
        after: called with the network and the step after each batch, for averages and copies of weights.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[[Iterable[Any]], Optimizer],
        trained_by: Trained,
        judged_by: Judged,
        schedule: Callable[[int], float] | None = None,
        after: Callable[[Any, int], None] | None = None,
    ) -> None:
        super().__init__(net, optimizer, schedule=schedule)
        self.trained_by, self.judged_by, self.after = trained_by, judged_by, after

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self.trained_by(self.net, *batch, self.global_step)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.after is not None:
            self.after(self.net, self.global_step)

    def measured(self, net: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.judged_by(net, x, y), self.trained_by(net, x, y, self.global_step), None


def taught(
    name: str,
    net: Callable[[], nn.Module],
    optimizer: Callable[[Iterable[Any]], Optimizer],
    trained_by: Trained,
    judged_by: Judged,
    *,
    data: Callable[[], Data],
    schedule: Callable[[int], float] | None = None,
    after: Callable[[Any, int], None] | None = None,
    **more: Any,
) -> Recipe:
    """Return the recipe of a `Method`, a hard healthy one of the fourth set.

    Args:
        name: of the recipe, which is its own twin unless ``more`` says otherwise.
        net: returns the freshly initialised network.
        optimizer: called with the trainable parameters.
        trained_by: called with the network, inputs, targets and the step; returns the loss.
        judged_by: called with the network, inputs and targets; returns the objective.
        schedule: factor of the learning rate at each step.
        after: called with the network and the step after each batch.
        data: returns the training set; its constant loss is that of ``judged_by``.
        more: further fields of the `Recipe`.
    """
    return Recipe(
        name,
        lambda: Method(net(), optimizer, trained_by, judged_by, schedule, after),
        data,
        **{"twin": name, "hard": True, "half": "fourth", **more},
    )


def alone(name: str, net: Callable[[], nn.Module], optimizer: Callable[..., Optimizer], **more: Any) -> Recipe:
    """Return what `trained` does, as a hard healthy recipe of the fourth set that is its own twin."""
    return trained(name, net, optimizer, **{"twin": name, "hard": True, "half": "fourth", **more})


def average(copy: nn.Module, source: nn.Module, keep: float) -> None:
    """Move the weights of a copy towards those of its source: ``keep`` of the old ones stay."""
    for mean, weight in zip(copy.parameters(), source.parameters(), strict=True):
        mean.data.mul_(keep).add_(weight.data, alpha=1 - keep)
