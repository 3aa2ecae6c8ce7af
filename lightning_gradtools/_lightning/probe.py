"""Batches and losses beside training, that leave no trace on module, metrics, data or random state."""

import copy
import itertools
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from lightning.pytorch.utilities.seed import isolate_rng
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_gradtools.arguments import ArgumentError


def first_batch(trainer: Trainer, pl_module: LightningModule) -> Any:
    """Return the first batch of the training data, on the module's device."""
    return first_batches(trainer, pl_module, 1)[0]


def first_batches(trainer: Trainer, pl_module: LightningModule, count: int, source: str = "train") -> list[Any]:
    """Return the first ``count`` batches of the ``"train"`` or ``"val"`` data, on the module's device.

    Draws from a fresh iterator of the data loader, so that training sees the batches again. A data set that
    gives each example only once, such as a stream, is these batches shorter afterwards. Fewer are returned if
    there are not as many.
    """
    if source == "train":
        trainer.fit_loop.setup_data()
        loaders: Any = trainer.train_dataloader
    else:
        trainer.fit_loop.epoch_loop.val_loop.setup_data()
        loaders = trainer.val_dataloaders
    batches = []
    with isolate_rng():
        loader = CombinedLoader(loaders, "max_size_cycle" if source == "train" else "sequential")
        for batch, _, _ in itertools.islice(iter(loader), count):
            moved = trainer.precision_plugin.convert_input(batch)
            moved = pl_module._on_before_batch_transfer(moved, dataloader_idx=0)
            batches.append(trainer.strategy.batch_to_device(moved))
    return batches


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


@contextmanager
def undisturbed(pl_module: LightningModule) -> Iterator[None]:
    """Let the module itself be run beside training, in evaluation mode, and put everything back afterwards.

    Put back are: each module's attributes (training mode, counters, the state of metrics), lists, dicts and
    sets among them, buffers, gradients, and the random state of every device. Nothing is logged. Compiled
    functions run eagerly, so that no graph is made or thrown away; cuDNN, whose recurrent layers have no
    backward pass in evaluation mode, is off if there are any.

    Weights are not copied: what runs must not change them.
    """
    modules = list(pl_module.modules())
    attributes = [(dict(vars(module)), dict(module._buffers)) for module in modules]
    recurrent = any(isinstance(module, nn.RNNBase) for module in modules)
    buffers = [(buffer, buffer.detach().clone()) for buffer in pl_module.buffers()]
    gradients = [(parameter, parameter.grad) for parameter in pl_module.parameters()]
    try:
        with isolate_rng(), torch.compiler.set_stance("force_eager"), _without_cudnn(recurrent):
            for module in modules:
                _give_copies(module)
            for parameter, _ in gradients:
                parameter.grad = None
            for name in ("log", "log_dict"):
                object.__setattr__(pl_module, name, lambda *_, **__: None)
            pl_module.eval()
            yield
    finally:
        for module, (saved, registered) in zip(modules, attributes, strict=True):
            vars(module).clear()
            vars(module).update(saved)
            module._buffers.clear()
            module._buffers.update(registered)
        for buffer, value in buffers:
            if not torch.equal(buffer, value):
                buffer.data.copy_(value)
        for parameter, gradient in gradients:
            parameter.grad = gradient


def _without_cudnn(wanted: bool) -> AbstractContextManager[None]:
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=False)
    return flags if wanted else nullcontext()


def _give_copies(module: nn.Module) -> None:
    """Let ``module`` work on copies of what its forward pass could change in place."""
    if isinstance(module, Metric):
        for name in module._defaults:
            vars(module)[name] = copy.deepcopy(vars(module)[name])
    for name, value in list(vars(module).items()):
        if not name.startswith("_") and type(value) in (list, dict, set, deque):
            vars(module)[name] = copy.copy(value)


def training_loss(pl_module: LightningModule, batch: Any) -> Tensor:
    """Return what ``training_step`` returns as the loss of a batch.

    Raises:
        ArgumentError: if the module optimises manually, because then its ``training_step`` changes the
            weights, or if it returns no loss for the batch.
    """
    name = type(pl_module).__name__
    if not pl_module.automatic_optimization:
        raise ArgumentError(f"{name}.automatic_optimization=False: its training_step cannot be run for its loss alone")
    takes_index = is_param_in_hook_signature(pl_module.training_step, "batch_idx", min_args=2)
    output = pl_module.training_step(batch, 0) if takes_index else pl_module.training_step(batch)
    loss = output["loss"] if isinstance(output, dict) else output
    if not isinstance(loss, Tensor):
        raise ArgumentError(f"{name}.training_step returned {loss!r} for the first batch: must be a loss")
    return loss
