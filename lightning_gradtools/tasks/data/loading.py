"""Batches of tensors that fit in memory, without per-sample work."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

Batch = tuple[Tensor, Tensor]


class BatchedDataset(Dataset[Batch]):
    """A dataset that reads a batch at once: one indexing operation in place of a collation of samples.

    The data loader's fetcher looks for ``__getitems__``, so samplers, ranks and workers see an ordinary
    dataset.
    """

    def __len__(self) -> int:
        """Return the number of samples."""
        raise NotImplementedError

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return the inputs and the targets of the batch, each (batch, ...)."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> Batch:
        """Return the input and the target of one sample."""
        inputs, targets = self.__getitems__([index])
        return inputs[0], targets[0]


class TensorPairs(BatchedDataset):
    """Inputs and targets with one sample per row."""

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self.inputs = inputs  # (samples, ...)
        self.targets = targets  # (samples,)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.inputs)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return the rows of the batch."""
        rows = torch.as_tensor(indices)
        return self.inputs[rows], self.targets[rows]


class EpochSampler(RandomSampler):
    """A random order that is a function of (seed, epoch) alone, so that a resumed run keeps to it.

    A plain `RandomSampler` draws its order from a generator whose state no checkpoint holds. Lightning calls
    ``set_epoch`` before each epoch; with several ranks it replaces this, as any `RandomSampler`, by a
    `DistributedSampler`, which keeps the same promise with the seed of `seed_everything`.
    """

    def __init__(self, data_source: BatchedDataset, seed: int) -> None:
        super().__init__(data_source)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """Return the indices of one epoch."""
        self.generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return super().__iter__()


class ResumableLoader(DataLoader[Any]):
    """A data loader that goes on inside an epoch after a resume: checkpoints hold its state.

    Its order must be a function of the epoch, as that of `EpochSampler` and `DistributedSampler` is.
    """

    _given = 0  # batches of this epoch that were handed out
    _skipped = 0  # batches of the next epoch that were handed out before the checkpoint

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch names its own class
        """Return the batches of one epoch, or those that remain of it."""
        self._given, self._skipped = self._skipped, 0
        for batch in islice(super().__iter__(), self._given, None):
            self._given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return how many batches of an unfinished epoch were handed out."""
        return {"batches": self._given % len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Leave out, in the next epoch, the batches that were handed out before."""
        self._skipped = state["batches"]


def _already_a_batch(batch: Any) -> Any:
    return batch


def batch_loader(
    dataset: BatchedDataset, batch_size: int, num_workers: int = 0, shuffle_seed: int | None = None
) -> ResumableLoader:
    """Return a loader of batches: shuffled and of one size if ``shuffle_seed`` is given, else all in order.

    The training tail is dropped because a batch of one sample has no batch statistics, and because a second
    shape costs `torch.compile` a second graph.
    """
    train = shuffle_seed is not None
    return ResumableLoader(
        dataset,
        batch_size=batch_size,
        sampler=EpochSampler(dataset, shuffle_seed) if shuffle_seed is not None else None,
        collate_fn=_already_a_batch,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        drop_last=train,
    )
