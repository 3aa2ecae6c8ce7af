"""The gradient noise scale of a run, from the micro-batches of gradient accumulation or the ranks of DDP."""

from math import isfinite
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.data import extract_batch_size
from torch import Tensor

from lightning_gradtools._lightning.gradient_pass import optimizer_parameters
from lightning_gradtools._lightning.strategy import loss_scale_of
from lightning_gradtools.callbacks.gradient_monitor.measurements.micro_batches import MicroBatchNorms
from lightning_gradtools.callbacks.gradient_monitor.report import Report, Section
from lightning_gradtools.distributed import mean_over_ranks
from lightning_gradtools.gradients.noise_scale import NoiseScale


class NoiseMeasurement:
    """Watches the micro-batches of the steps that are logged, and averages over these steps.

    Attributes:
        averages: what the logged steps so far have shown.
    """

    def __init__(self) -> None:
        self.averages = NoiseScale()
        self._micro_batches: MicroBatchNorms | None = None  # of the step that is logged next
        self._told_why_not = False

    def start_batch(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        """Watch the backward pass of ``batch``, if there are gradients of two batch sizes to compare."""
        if self._micro_batches is None and self._is_possible(trainer, module):
            self._micro_batches = MicroBatchNorms(optimizer_parameters(trainer.optimizers[0]))
        if self._micro_batches is not None:
            self._micro_batches.sizes.append(extract_batch_size(batch))

    def _is_possible(self, trainer: Trainer, module: LightningModule) -> bool:
        """Say whether gradients of two batch sizes are there to compare; if not, tell why, once."""
        reason = None
        if not module.automatic_optimization:
            reason = "under manual optimization micro-batches cannot be told from steps"
        elif not isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy)):
            reason = f"{type(trainer.strategy).__name__} does not show the gradient of one rank"
        elif trainer.accumulate_grad_batches * trainer.world_size < 2:
            reason = "it needs accumulate_grad_batches >= 2 or DDP with two ranks"
        if reason and not self._told_why_not:
            self._told_why_not = True
            rank_zero_warn(f"GradientMonitor(noise_scale=True): not measured, {reason}")
        return reason is None

    def end_backward(self, trainer: Trainer) -> None:
        """Close the micro-batch whose backward pass has ended."""
        if self._micro_batches is not None:
            self._micro_batches.end_backward(loss_scale_of(trainer))

    def batch_sizes(self, trainer: Trainer) -> tuple[int, int] | None:
        """Return the samples of one micro-batch and of the step; None if its micro-batches do not compare."""
        micro, count = self._micro_batches, trainer.accumulate_grad_batches
        if micro is None or len(micro.squared) != count or len(set(micro.sizes)) != 1:
            return None  # the window at the end of an epoch is short, or its batches differ
        return micro.sizes[0], micro.sizes[0] * count * trainer.world_size

    def sections(self, trainer: Trainer, total: Tensor) -> list[Section]:
        """Return the squared norms of both batch sizes; ``total`` is the 2-norm of the step's gradient."""
        assert self._micro_batches is not None
        # Lightning divides the loss by the number of micro-batches.
        squared = torch.stack(self._micro_batches.squared).mean() * trainer.accumulate_grad_batches**2
        return [Section("noise_small", mean_over_ranks(squared)), Section("noise_big", total.square())]

    def scalars(self, report: Report) -> dict[str, float]:
        """Take in what a step showed, now on the host, and return what is logged."""
        if report.batch_sizes is None:
            return {}
        small, big = report.totals["noise_small"], report.totals["noise_big"]
        if isfinite(small) and isfinite(big):
            self.averages.update(small, report.batch_sizes[0], big, report.batch_sizes[1])
        scalars = {}
        if self.averages.weight:
            scalars["grad_noise/signal"] = self.averages.signal / self.averages.weight
            scalars["grad_noise/trace"] = self.averages.noise / self.averages.weight
        if self.averages.scale is not None:
            scalars["grad_noise/scale"] = self.averages.scale
        return scalars

    def start_run(self) -> None:
        """Be ready to tell once more why nothing is measured."""
        self._told_why_not = False

    def stop(self) -> None:
        """Take the hooks off: the step is over."""
        if self._micro_batches is not None:
            self._micro_batches.remove()
            self._micro_batches = None
