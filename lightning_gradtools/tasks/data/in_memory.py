"""What the data modules share: arguments, checks, loaders."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from lightning_gradtools.arguments import ArgumentError, integer, number
from lightning_gradtools.tasks.data.loading import BatchedDataset, batch_loader


class Splits(NamedTuple):
    """The three disjoint parts of a data set."""

    train: BatchedDataset
    val: BatchedDataset
    test: BatchedDataset


class InMemoryDataModule(LightningDataModule):
    """A data module whose data loads in a moment and stays in memory. A subclass says what it is in `load`.

    Training batches are shuffled, all of ``batch_size``, and drop the remainder; the others are in order and
    whole.

    Args:
        batch_size: samples in a batch, on each rank.
        fractions: the shares of train, val and test; they sum to 1.
        seed: fixes the split and, in a single process, each epoch's order.
        num_workers: processes that load. 0 is fastest for data in memory.

    Raises:
        ArgumentError: if a number is out of its range, or the fractions do not sum to 1.
    """

    def __init__(self, batch_size: int, fractions: Sequence[float], seed: int = 0, num_workers: int = 0) -> None:
        super().__init__()
        self.batch_size = integer("batch_size", batch_size, at_least=1)
        self.seed = integer("seed", seed, at_least=0)
        self.num_workers = integer("num_workers", num_workers, at_least=0)
        if not isinstance(fractions, Sequence) or len(fractions) != 3:
            raise ArgumentError(f"fractions={fractions!r}: must be three shares: train, val and test")
        self.fractions = [number("fractions", share, above=0, below=1) for share in fractions]
        if not math.isclose(sum(self.fractions), 1.0, abs_tol=1e-6):
            raise ArgumentError(f"fractions={self.fractions}: must sum to 1")
        self._splits: Splits | None = None

    def load(self) -> Splits:
        """Return the data, split."""
        raise NotImplementedError

    @property
    def splits(self) -> Splits:
        """The data, loaded on first use."""
        if self._splits is None:
            self._splits = self.load()
        return self._splits

    def split_sizes(self, total: int) -> list[int]:
        """Return the sizes of train, val and test out of ``total``; what rounding leaves goes to train.

        Raises:
            ArgumentError: if one of them would be empty.
        """
        val, test = (int(total * share) for share in self.fractions[1:])
        sizes = [total - val - test, val, test]
        for name, size in zip(Splits._fields, sizes, strict=True):
            if size < 1:
                raise ArgumentError(f"fractions={self.fractions}: the {name} split of {total} samples is empty")
        return sizes

    def setup(self, stage: str) -> None:  # noqa: ARG002
        """Load and check that each rank has at least one whole training batch."""
        ranks = self.trainer.world_size if self.trainer is not None else 1
        available = len(self.splits.train) // ranks
        if self.batch_size > available:
            raise ArgumentError(
                f"batch_size={self.batch_size}: must be at most {available}, the size of the training set"
                + (f" on each of {ranks} ranks" if ranks > 1 else "")
            )

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the shuffled training batches."""
        return batch_loader(self.splits.train, self.batch_size, self.num_workers, shuffle_seed=self.seed)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the validation batches."""
        return batch_loader(self.splits.val, self.batch_size, self.num_workers)

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the test batches."""
        return batch_loader(self.splits.test, self.batch_size, self.num_workers)
