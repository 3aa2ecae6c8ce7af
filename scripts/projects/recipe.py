"""What a recipe is: one third-party model, how its project trains it, and how to make it sick."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

RATE = "learning rate × 100"
INITIAL = "weights × 20 at the start"
INPUTS = "inputs × 1000"
TARGETS = "targets × 1000"
BIAS = "biases − 50 before ReLUs"
EQUAL = "all weights equal at the start"
SICKNESSES = (RATE, INITIAL, INPUTS, TARGETS, BIAS, EQUAL)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What one run is given; a recipe puts each part where its project has the place for it.

    Attributes:
        callbacks: for the Trainer.
        folder: what is written goes here.
        sickness: one of ``SICKNESSES``, or "" for a healthy run.
    """

    callbacks: list[pl.Callback]
    folder: Path
    sickness: str = ""
    SICK_RATE: ClassVar[float] = 100.0
    SICK_WEIGHT: ClassVar[float] = 20.0
    SICK_SCALE: ClassVar[float] = 1000.0
    SICK_BIAS: ClassVar[float] = -50.0

    @property
    def trainer(self) -> dict[str, Any]:
        """Arguments of the Trainer. The rest is its default: a logger, a sanity check, checkpoints."""
        return {
            "callbacks": list(self.callbacks),
            "default_root_dir": str(self.folder),
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }

    def rate(self, healthy: float) -> float:
        """Return the learning rate."""
        return healthy * self.SICK_RATE if self.sickness == RATE else healthy

    def inputs(self, values: Any) -> Any:
        """Return the model's inputs, a tensor or an array."""
        return values * self.SICK_SCALE if self.sickness == INPUTS else values

    def targets(self, values: Any) -> Any:
        """Return what the model is to predict, a tensor or an array."""
        return values * self.SICK_SCALE if self.sickness == TARGETS else values

    def model(self, module: Any) -> Any:
        """Return the model, its weights changed if that is the sickness."""
        with torch.no_grad():
            if self.sickness == INITIAL:
                for weight in module.parameters():
                    if weight.dim() > 1:
                        weight.mul_(self.SICK_WEIGHT)
            if self.sickness == EQUAL:
                for weight in module.parameters():
                    if weight.dim() > 1:
                        weight.fill_(weight.std())
            if self.sickness == BIAS:
                for each in module.modules():
                    if isinstance(each, nn.Linear) and each.bias is not None and each.out_features > 1:
                        each.bias.add_(self.SICK_BIAS)
        return module


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One row of the table.

    Attributes:
        package: distribution that the model comes from.
        sickness: the one that the model is made sick with.
        fit: trains with a setting and returns what was trained, as the Trainer saw it.
        true: kinds of findings that are right on the healthy model too, each with what is the case.
    """

    package: str
    sickness: str
    fit: Callable[[Setting], Any]
    true: Mapping[str, str] = field(default_factory=dict)


class Supervised(pl.LightningModule):
    """Trains a model that comes without a LightningModule.

    Args:
        model: what is trained.
        loss: of the model and a batch.
        rate: Adam's learning rate.
    """

    def __init__(self, model: nn.Module, loss: Callable[[nn.Module, Any], Tensor], rate: float) -> None:
        super().__init__()
        self.model = model
        self._loss = loss
        self._rate = rate

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return and log the loss of a batch."""
        loss = self._loss(self.model, batch)
        self.log("train_loss", loss, batch_size=1)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the loss of a batch."""
        self.log("val_loss", self._loss(self.model, batch), batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=self._rate)


def batches(*tensors: Tensor, size: int = 32, shuffle: bool = True) -> DataLoader[Any]:
    """Return a loader of tensors."""
    return DataLoader(TensorDataset(*tensors), batch_size=size, shuffle=shuffle)


def train(
    setting: Setting,
    model: nn.Module,
    loss: Callable[[nn.Module, Any], Tensor],
    loader: Any,
    *,
    rate: float = 1e-3,
    steps: int = 100,
) -> pl.LightningModule:
    """Train a model that comes without a LightningModule, and return the one it was put in."""
    module = Supervised(setting.model(model), loss, setting.rate(rate))
    held_out: DataLoader[Any] = DataLoader([next(iter(loader))], batch_size=None)  # type: ignore[arg-type]
    pl.Trainer(**setting.trainer, max_steps=steps, max_epochs=-1).fit(module, loader, held_out)
    return module


def images(classes: int = 4, size: int = 32, channels: int = 3, count: int = 128) -> tuple[Tensor, Tensor]:
    """Return noisy images that have a bright square in the corner of their class, and the classes."""
    labels = torch.arange(count) % classes
    pictures = 0.5 * torch.randn(count, channels, size, size)
    half = size // 2
    for corner in range(classes):
        top, left = half * (corner // 2), half * (corner % 2)
        pictures[labels == corner, :, top : top + half, left : left + half] += 1
    return pictures, labels


def sentences(vocabulary: int = 40, length: int = 24, count: int = 128) -> Tensor:
    """Return sequences of tokens in each of which a token follows from the one before it."""
    start = torch.randint(vocabulary, (count, 1))
    stride = torch.randint(1, 4, (count, 1))
    return (start + stride * torch.arange(length)) % vocabulary
