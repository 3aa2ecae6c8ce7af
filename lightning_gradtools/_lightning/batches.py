"""Batches for probes: kept as training passes them, or drawn from a copy of the loader."""

import copy
import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from lightning_gradtools._lightning.flavour import counterpart
from lightning_gradtools._lightning.random_state import isolated_random_state
from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.pytree import tree_map

_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


def kept(batch: Any) -> Any:
    """Return a copy of a batch, which training may overwrite; of what cannot be copied, its tensors alone."""
    try:
        return copy.deepcopy(batch)
    except Exception:  # a class of the user's, or a tensor within a graph
        return tree_map(_own, batch)


def _own(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf


def first_batch(trainer: Trainer, pl_module: LightningModule) -> Any:
    """Return the first batch of the training data, on the module's device.

    It is drawn from a copy of the loaders, with samplers, generators and streams of its own, so that training sees
    the batches that it would have seen. Of a data set with an index the examples are shared.

    Raises:
        ArgumentError: if the loader cannot be copied, as one over a queue, or has no batch.
    """
    trainer.fit_loop.setup_data()
    with isolated_random_state():
        try:
            loaders = tree_map(_copied, trainer.train_dataloader)
        except Exception as error:
            raise ArgumentError(
                f"the training data cannot be copied ({type(error).__name__}: {error}), and to draw from it would"
                " take a batch from training"
            ) from error
        combined = counterpart(trainer, "utilities.combined_loader", "CombinedLoader")
        found = next(iter(combined(loaders, "max_size_cycle")), None)
        if found is None:
            raise ArgumentError("the training data has no batch")
        moved = trainer.precision_plugin.convert_input(found[0])
        moved = pl_module._on_before_batch_transfer(moved, dataloader_idx=0)
        return trainer.strategy.batch_to_device(moved)


def has_known_length(trainer: Trainer) -> bool:
    """Say whether the number of batches in an epoch is known."""
    return trainer.num_training_batches != float("inf")


def repeats_one_batch(trainer: Trainer) -> bool:
    """Say whether training is to see one batch, or one example, again and again.

    That is so where an epoch has one batch, as with ``overfit_batches=1`` or all data in one, and where the data is a
    list of one and the same object.
    """
    if trainer.num_training_batches == 1:
        return True
    dataset = getattr(trainer.train_dataloader, "dataset", trainer.train_dataloader)
    return isinstance(dataset, (list, tuple)) and len(dataset) > 1 and all(each is dataset[0] for each in dataset[:9])


def _copied(loader: Any) -> Any:
    memo: dict[int, Any] = {}
    dataset = getattr(loader, "dataset", None)
    if isinstance(dataset, Dataset) and not isinstance(dataset, IterableDataset):
        _share(dataset, memo)
    if getattr(loader, "_iterator", None) is not None:
        # Workers that stay from epoch to epoch cannot be copied; a copy starts its own.
        loader = copy.copy(loader)
        loader._iterator = None
    return copy.deepcopy(loader, memo)


def _share(dataset: Dataset[Any], memo: dict[int, Any]) -> Dataset[Any]:
    """Return a copy of a data set that shares the examples, but neither counters, lists nor generators."""
    if id(dataset) not in memo:
        twin = memo[id(dataset)] = copy.copy(dataset)
        for name, value in list(vars(twin).items()):
            if isinstance(value, Dataset) and not isinstance(value, IterableDataset):
                setattr(twin, name, _share(value, memo))
            elif isinstance(value, _GENERATORS):
                setattr(twin, name, copy.deepcopy(value, memo))
            elif type(value) in (list, dict, set):
                setattr(twin, name, copy.copy(value))
    found: Dataset[Any] = memo[id(dataset)]
    return found
