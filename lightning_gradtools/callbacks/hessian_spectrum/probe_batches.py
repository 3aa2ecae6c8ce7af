"""The batches that spectra of one run are of: the first that pass."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from lightning_gradtools._lightning.batches import kept
from lightning_gradtools.pytree import tree_map


class ProbeBatches:
    """Copies of the first batches that training passes and that have a loss, or that validation passes.

    Args:
        count: how many are wanted.

    Attributes:
        batches: each with the index that it had.
        complete: whether no more are wanted.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self.batches: list[tuple[Any, int]] = []
        self.complete = False
        self._places: set[tuple[int, int]] = set()  # of the validation batches that were kept
        self._at_hand: list[tuple[Any, int]] = []  # until it is known to have a loss

    def before_step(self, batch: Any, batch_idx: int) -> None:
        """Keep a batch of training for as long as its step takes."""
        if not self.complete:
            self._at_hand = [(kept(batch), batch_idx)]

    def after_step(self, *, has_loss: bool) -> None:
        """Keep that batch for good, if it has a loss."""
        at_hand, self._at_hand = self._at_hand, []
        if at_hand and has_loss:
            self._keep(at_hand[0])

    def in_validation(self, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
        """Keep a batch of validation, unless that of its place was kept before, as in the sanity check."""
        if not self.complete and (dataloader_idx, batch_idx) not in self._places:
            self._places.add((dataloader_idx, batch_idx))
            self._keep((kept(batch), batch_idx))

    def close(self) -> None:
        """Take what there is, if all data have passed and were fewer batches than were asked for."""
        self.complete = bool(self.batches)

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches, "complete": self.complete, "places": sorted(self._places)}

    def load_state_dict(self, state: dict[str, Any], here: Callable[[Tensor], Tensor]) -> None:
        """Go on from ``state``, its tensors brought where ``here`` brings them."""
        self.batches = [(tree_map(here, batch), index) for batch, index in state["batches"]]
        self.complete, self._places = state["complete"], {(i, j) for i, j in state["places"]}

    def _keep(self, batch: tuple[Any, int]) -> None:
        self.batches.append(batch)
        self.complete = len(self.batches) == self._count
