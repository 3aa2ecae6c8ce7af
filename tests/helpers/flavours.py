"""The same small run in either of the packages that Lightning comes as."""

from importlib import import_module
from types import ModuleType
from typing import Any

import lightning.pytorch
import pytorch_lightning
import torch
import torch.nn.functional as F

from helpers.runs import batches, loader, mlp

FLAVOURS = ("lightning.pytorch", "pytorch_lightning")


class Flavour:
    """One of the two packages, and runs made of it alone.

    Attributes:
        name: of the package.
        pl: the package.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.pl: ModuleType = import_module(name)

    def part(self, path: str) -> Any:
        """Return what is at ``module.name`` in the package."""
        module, _, name = path.rpartition(".")
        return getattr(import_module(f"{self.name}.{module}"), name)

    def module(self, **methods: Any) -> Any:
        """Return least squares as a module of this flavour, with methods of the test's own."""
        torch.manual_seed(0)
        base = _REGRESSIONS[self.name]
        return type("Regression", (base,), methods)() if methods else base()

    def trainer(self, *callbacks: Any, **settings: Any) -> Any:
        """Return a Trainer as it is by default, but short, and on one CPU."""
        short = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "log_every_n_steps": 1}
        return self.pl.Trainer(callbacks=list(callbacks), **{**short, **settings})

    def fit(self, module: Any, *callbacks: Any, ckpt_path: str | None = None, **settings: Any) -> Any:
        """Train on six batches, validate on two, and return the Trainer."""
        run = self.trainer(*callbacks, **settings)
        run.fit(module, loader(batches()), loader(batches(2)), ckpt_path=ckpt_path)
        return run


class _LeastSquares:
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", F.mse_loss(self.net(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class _Regression(_LeastSquares, lightning.pytorch.LightningModule):
    pass


class _OtherRegression(_LeastSquares, pytorch_lightning.LightningModule):
    pass


_REGRESSIONS = dict(zip(FLAVOURS, (_Regression, _OtherRegression), strict=True))
