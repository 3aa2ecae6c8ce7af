"""One batch and one loss before training, that leave no trace on module, metrics, data or random state."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from lightning_gradtools.arguments import ArgumentError


def first_batch(trainer: Trainer, pl_module: LightningModule) -> Any:
    """Return the first batch of the training data, on the module's device.

    Draws from a fresh iterator of the data loader, so that training sees the batch again. A data set that
    gives each example only once, such as a stream, is a batch shorter afterwards.
    """
    trainer.fit_loop.setup_data()
    with isolate_rng():
        batch, _, _ = next(iter(CombinedLoader(trainer.train_dataloader, "max_size_cycle")))
    batch = trainer.precision_plugin.convert_input(batch)
    batch = pl_module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch)


@contextmanager
def stand_in(pl_module: LightningModule) -> Iterator[LightningModule]:
    """Give a copy of the module to run in its place, and restore the random state afterwards.

    The copy has the weights, buffers, metrics and mode of the module; it logs nothing.
    """
    twin = copy.deepcopy(pl_module)
    twin.trainer = pl_module.trainer
    for name in ("log", "log_dict"):
        setattr(twin, name, lambda *_, **__: None)
    with isolate_rng():
        yield twin


def training_loss(pl_module: LightningModule, batch: Any) -> Tensor:
    """Return what ``training_step`` returns as the loss of a batch.

    Raises:
        ArgumentError: if the module optimises manually, because then its ``training_step`` changes the
            weights, or if it returns no loss for the batch.
    """
    name = type(pl_module).__name__
    if not pl_module.automatic_optimization:
        raise ArgumentError(f"{name}.automatic_optimization=False: its training_step cannot be run for its loss alone")
    output = pl_module.training_step(batch, 0)
    loss = output["loss"] if isinstance(output, dict) else output
    if not isinstance(loss, Tensor):
        raise ArgumentError(f"{name}.training_step returned {loss!r} for the first batch: must be a loss")
    return loss
