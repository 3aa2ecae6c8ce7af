"""Small Lightning runs on fixed data, for the tests of callbacks."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))


class Regression(LightningModule):
    """Least squares with a network and an optimizer of the test's choice."""

    def __init__(
        self,
        net: Callable[[], nn.Module] = mlp,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,
        **settings: Any,
    ):
        super().__init__()
        self.net = net()
        self.optimizer, self.settings = optimizer, {"lr": 1e-2, **settings}

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.mse_loss(self.net(x), y)

    def validation_step(self, batch, batch_idx):
        dtype = next(self.parameters()).dtype
        x, y = (part.to(dtype) for part in batch)
        self.log("val/loss", (self.net(x) - y).abs().square().mean().float())

    def configure_optimizers(self):
        return self.optimizer(self.parameters(), **self.settings)


class WrongDouble(torch.autograd.Function):
    """Twice its input, with the gradient of once."""

    @staticmethod
    def forward(context: Any, x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


def batches(count: int = 6, size: int = 8, scale: float = 1.0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 4, generator=generator), scale * torch.randn(size, 1, generator=generator))
        for _ in range(count)
    ]


def loader(data: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> DataLoader:
    x, y = (torch.cat(part) for part in zip(*data, strict=True))
    return DataLoader(TensorDataset(x, y), batch_size=len(data[0][0]))


def trainer(*callbacks: Callback, **settings: Any) -> Trainer:
    """A Trainer as it is by default (logger, checkpoints, sanity check, progress bar), but short, and on one CPU."""
    short = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "log_every_n_steps": 1}
    return Trainer(callbacks=list(callbacks), **{**short, **settings})


def fit(module: LightningModule, *callbacks: Callback, data: Any = None, **settings: Any) -> Trainer:
    """Train on ``data`` (by default six batches), validate on two batches, and return the Trainer."""
    run = trainer(*callbacks, **settings)
    validation = loader(batches(2)) if is_overridden("validation_step", module) else None
    run.fit(module, loader(batches() if data is None else data), validation)
    return run


class GradientSpy(Callback):
    """Keeps a float64 copy of every gradient as seen before clipping and at the end of the batch."""

    def __init__(self):
        self.before, self.after = [], []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.before.append(self._copy(pl_module))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if not trainer.fit_loop._should_accumulate():
            self.after.append(self._copy(pl_module))

    @staticmethod
    def _copy(module):
        return {
            name: _exact(parameter.grad) for name, parameter in module.named_parameters() if parameter.grad is not None
        }


def _exact(gradient: torch.Tensor) -> torch.Tensor:
    dtype = torch.complex128 if gradient.is_complex() else torch.float64
    return gradient.detach().to_dense().to(dtype, copy=True)


def reference_norm(gradients: dict[str, torch.Tensor], p: float = 2.0) -> float:
    """The norm of all gradients as one vector, by summing powers in float64."""
    magnitudes = torch.cat([gradient.abs().double().reshape(-1) for gradient in gradients.values()])
    return float(magnitudes.max() if p == float("inf") else magnitudes.pow(p).sum().pow(1 / p))
