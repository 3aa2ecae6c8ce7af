"""Runs under GradientClipping, for its tests."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from helpers.runs import GradientSpy, Regression, batches, fit, loader, mlp, reference_norm


def weights(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])


def trained(
    *callbacks: Callback,
    data: Any = None,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,
    settings: dict[str, Any] | None = None,
    **arguments: Any,
) -> tuple[Regression, Trainer]:
    """Train the same network each time, and return it with the Trainer."""
    torch.manual_seed(0)
    module = Regression(optimizer=optimizer, **(settings or {}))
    run = fit(module, *callbacks, data=data, **arguments)
    return module, run


class Validated(Regression):
    """With a validation loop, as most have."""

    def validation_step(self, batch, batch_idx):
        self.log("validation_loss", self.training_step(batch, batch_idx))


def ordinary_run(
    module: Regression,
    *callbacks: Callback,
    folder: Path,
    data: Any = None,
    ckpt_path: Path | None = None,
    **settings: Any,
) -> Trainer:
    """Train with what a Trainer has by default: a sanity check, validation, a logger and checkpoints in ``folder``."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    few = {"max_epochs": 1, "log_every_n_steps": 1}
    run = Trainer(
        callbacks=list(callbacks), accelerator="cpu", devices=1, default_root_dir=folder, **{**quiet, **few, **settings}
    )
    data = batches() if data is None else data
    run.fit(module, loader(data), loader(data[:2]), ckpt_path=ckpt_path)
    return run


class Two(Regression):
    """Manual optimisation of two networks; the second optimizer is raw torch if told so."""

    def __init__(self, raw=None):
        super().__init__()
        self.other, self.automatic_optimization, self.raw = mlp(), False, raw

    def training_step(self, batch, batch_idx):
        x, y = batch
        for index, net in enumerate((self.net, self.other)):
            optimizer = self.optimizers(use_pl_optimizer=self.raw is None)[index]
            optimizer.zero_grad()
            self.manual_backward((net(x) - y).square().mean())
            if self.raw is not None:
                self.raw.clip(optimizer)
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(net.parameters(), lr=0.1) for net in (self.net, self.other)]


class TwoValidated(Two):
    def validation_step(self, batch, batch_idx):
        pass


def nan_at(*positions: int, count: int = 6) -> list[tuple[torch.Tensor, torch.Tensor]]:
    data = batches(count)
    for position in positions:
        data[position][0][0, 0] = math.nan
    return data


def same_gradients(
    *callbacks: Callback, scales: Sequence[float], **settings: Any
) -> tuple[list[float], list[float | None]]:
    """Train with weights that stay on one batch, whose gradient is multiplied by each of ``scales``.

    Returns the norms before and after clipping, in units of that of scale 1.
    """

    class Scaled(Regression):
        def training_step(self, batch, batch_idx):
            return super().training_step(batches(1)[0], batch_idx) * scales[batch_idx]

    spy = GradientSpy()
    fit(Scaled(optimizer=torch.optim.SGD, lr=0.0), spy, *callbacks, data=batches(len(scales)), **settings)
    unit = reference_norm(spy.before[0]) / scales[0]
    return [reference_norm(before) / unit for before in spy.before], [
        reference_norm(after) / unit if after else None for after in spy.after
    ]
