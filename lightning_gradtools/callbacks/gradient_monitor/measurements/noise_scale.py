"""The gradient noise scale of a run, from the micro-batches of gradient accumulation or the ranks of DDP."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from typing import Any

import torch
from lightning.pytorch.utilities.data import extract_batch_size
from torch import Tensor

from lightning_gradtools._lightning.fail_safe import FailSafe, tell
from lightning_gradtools._lightning.gradient_pass import optimizer_parameters
from lightning_gradtools._lightning.strategy import is_strategy, loss_scale_of
from lightning_gradtools.callbacks.gradient_monitor.measurements.measurement import (
    MeasuredStep,
    Measurement,
    Run,
    StepContext,
)
from lightning_gradtools.callbacks.gradient_monitor.measurements.micro_batches import MicroBatchNorms
from lightning_gradtools.gradients.noise_scale import NoiseScale
from lightning_gradtools.pytree import tree_leaves

_NAME = "GradientMonitor(noise_scale=True)"


class GradientNoise(Measurement):
    """Logs ``grad_noise/``, averaged over the logged steps.

    A step counts if every micro-batch of every rank was of one size and its gradient was seen. That is decided from
    what all ranks learn of one another when the numbers come to the host, so that all decide alike.

    What keeps it from measuring is its own affair: said once, while the monitor's norms go on. So is a failure of its
    hooks, which run in the backward pass under a guard of its own.

    Attributes:
        averages: what the logged steps so far have shown.
    """

    def __init__(self) -> None:
        self.averages = NoiseScale()
        self._ranks = 1
        self._reason: str | None = None  # why it cannot be measured in this fit, on any rank
        self._told_why_not = False
        self._gave_up = False  # on this rank
        self._guard = FailSafe(_NAME, self.release)
        self._micro_batches: MicroBatchNorms | None = None  # of the step that is logged next

    @property
    def shared(self) -> Mapping[str, int]:
        return {"sizes": 3, "small": 1} if self._ranks > 1 and self._reason is None else {}

    def start_fit(self, run: Run) -> None:
        self._ranks = run.trainer.world_size
        self._told_why_not = self._gave_up = False
        self._reason = None
        self._guard.renew()
        if not run.module.automatic_optimization:
            self._reason = "under manual optimization micro-batches cannot be told from steps"
        elif not is_strategy(run.trainer, "SingleDeviceStrategy", "DDPStrategy"):
            self._reason = f"{type(run.trainer.strategy).__name__} does not show the gradient of one rank"

    def start_batch(self, run: Run, batch: Any) -> None:
        if not self._gave_up and self._is_possible(run):
            self._guard.run(self._watch, run, batch)

    def _watch(self, run: Run, batch: Any) -> None:
        try:
            size = _size_of(batch)
        except Exception as error:  # of whatever the user's batch is made of
            self._give_up(
                f"the batch size is not known: Lightning finds none in a batch of type {type(batch).__name__}"
                f" ({type(error).__name__}); in tensors, lists, dicts and dataclasses of them it does"
            )
            return
        if self._micro_batches is None:
            self._micro_batches = MicroBatchNorms(optimizer_parameters(run.trainer.optimizers[0]), self._guard)
        self._micro_batches.sizes.append(size)

    def _give_up(self, reason: str) -> None:
        self._gave_up = True
        self.release()
        tell(f"{_NAME}: not measured, {reason}")

    def _is_possible(self, run: Run) -> bool:
        """Say whether gradients of two batch sizes are there to compare; if not, tell why, once."""
        reason = self._reason
        if reason is None and run.trainer.accumulate_grad_batches * self._ranks < 2:
            reason = "it needs accumulate_grad_batches >= 2 or DDP with two ranks"
        if reason and not self._told_why_not:
            self._told_why_not = True
            if run.trainer.is_global_zero:
                tell(f"{_NAME}: not measured, {reason}")
        return reason is None

    def before_backward(self, run: Run) -> None:
        if self._micro_batches is not None:
            self._guard.run(self._micro_batches.start_backward)

    def after_backward(self, run: Run) -> None:
        if self._micro_batches is not None:
            self._guard.run(self._micro_batches.end_backward, loss_scale_of(run.trainer))

    def before_step(self, context: StepContext) -> Mapping[str, Tensor]:
        micro, count = self._micro_batches, context.trainer.accumulate_grad_batches
        if micro is not None and len(micro.squared) > count:
            self._give_up(f"{type(context.optimizer).__name__} differentiates the loss several times a step")
            return {}
        if micro is None or len(micro.squared) != count or len(set(micro.sizes)) != 1:
            return {}  # the window at the end of an epoch is short, or its batches differ
        size = micro.sizes[0]
        return {
            "sizes": torch.tensor([float(size), size**2, size * count]),
            # Lightning divides the loss by the number of micro-batches.
            "small": torch.stack(micro.squared).mean() * count**2,
            "big": context.euclidean_total().square(),
        }

    def after_step(self, context: StepContext) -> Mapping[str, Tensor]:
        self.release()
        return {}

    def scalars(self, found: Mapping[str, Sequence[float]], step: MeasuredStep) -> Mapping[str, float]:
        if not {"sizes", "small", "big"} <= found.keys():
            return {}
        size, size_squared, samples = found["sizes"]  # averages over the ranks
        if self._ranks > 1 and size_squared != size**2:
            return {}  # sizes differ, that of a rank which has none being 0
        (small,), (big,) = found["small"], found["big"]
        if isfinite(small) and isfinite(big):
            self.averages.update(small, round(size), big, round(samples * self._ranks))
        scalars = {}
        if self.averages.weight:
            scalars["grad_noise/signal"] = self.averages.signal / self.averages.weight
            scalars["grad_noise/trace"] = self.averages.noise / self.averages.weight
        if self.averages.scale is not None:
            scalars["grad_noise/scale"] = self.averages.scale
        return scalars

    def release(self) -> None:
        if self._micro_batches is not None:
            self._micro_batches.remove()
            self._micro_batches = None

    def reset(self) -> None:
        self.averages = NoiseScale()

    def state_dict(self) -> dict[str, Any]:
        return {"noise": asdict(self.averages)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.averages = NoiseScale(**{key: float(value) for key, value in state["noise"].items()})


def _size_of(batch: Any) -> int:
    """Return the number of samples of ``batch``, as Lightning finds it.

    Raises:
        TypeError: for what gives its parts only once: to look for the size would take them from training.
    """
    if any(isinstance(each, Iterator) for each in tree_leaves(batch)):
        raise TypeError("the batch is an iterator")
    return extract_batch_size(batch)
