"""What a training step moves itself, as the teacher of BYOL: weights that no optimizer has, and buffers."""

from collections.abc import Iterable

from lightning.pytorch import LightningModule
from torch import Tensor

from lightning_gradtools._lightning.probe import unoptimized, versions


class MovingWeights:
    """Finds them out by looking before and after each step.

    Attributes:
        names: of those that were seen to move.
    """

    def __init__(self) -> None:
        self.names: set[str] = set()
        self._watched: dict[str, Tensor] = {}  # as of the start of the epoch
        self._versions: dict[str, int] = {}

    def before_step(self, pl_module: LightningModule, batch_idx: int) -> None:
        """Look before a step of training."""
        if batch_idx == 0 or not self._watched:  # to walk a large module takes longer than all else here
            self._watched = unoptimized(pl_module)
        self._versions = versions(self._watched)

    def after_step(self) -> None:
        """Look after it."""
        now = versions(self._watched)
        self.names |= {name for name, version in self._versions.items() if now[name] != version}

    def of(self, pl_module: LightningModule) -> list[Tensor]:
        """Return those of a module, in the order of their names."""
        found = unoptimized(pl_module)
        return [found[name] for name in sorted(self.names & found.keys())]


def put_back(before: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Give each tensor that a loss has moved its value of before."""
    for tensor, value in before:
        if not tensor.equal(value):
            tensor.data.copy_(value)
