"""Looks out for the first NaN or infinity of a stretch of steps, and has it traced."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from lightning_gradtools._lightning.gradient_pass import GradientPass
from lightning_gradtools._lightning.loop import batch_index, logging_step
from lightning_gradtools._lightning.strategy import loss_scale_of
from lightning_gradtools.callbacks.pathology_detector.nonfinite_origin import Origin, find_in_parameters, search
from lightning_gradtools.callbacks.pathology_detector.replay import dump
from lightning_gradtools.diagnosis.observation import History, NonfiniteEvent, Observation
from lightning_gradtools.distributed import gather_objects, on_this_rank


class NonfiniteWatch:
    """Looks at losses and gradients where that makes no device wait, and at what samples show everywhere.

    Args:
        check_every_step: whether to look at every step; None: where data is on the CPU.
        dump_dir: folder for what is needed to replay the step; None: no dump.

    Attributes:
        lasting: whether a stretch that was told of goes on.
        events: what was seen and is not in the history yet.
        batch: the batch at hand, to run its step again.
    """

    def __init__(self, check_every_step: bool | None, dump_dir: str | None) -> None:
        self._check_every_step, self._dump_dir = check_every_step, dump_dir
        self.lasting = False
        self.events: list[NonfiniteEvent] = []
        self.batch: Any = None

    def start_fit(self) -> None:
        """Be ready for a fit."""
        self.lasting = False

    def look_at_loss(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Look at the loss of this batch."""
        if self._looks_at(loss):
            if math.isfinite(loss.detach().sum().item()):
                self.lasting = False
            else:
                self._trace(trainer, pl_module, lambda: find_in_parameters(pl_module, trainer.optimizers))

    def look_at_gradients(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer, seen: GradientPass | None
    ) -> None:
        """Look at the gradients of this step: all of them if there was a pass over them, else at one that tells."""
        if self.lasting or loss_scale_of(trainer) is not None:  # fp16's search for a scale makes such on purpose
            return
        telling = seen.norms.total if seen is not None and seen.is_whole else _sentinel(optimizer)
        if telling is not None and self._looks_at(telling) and not math.isfinite(telling.sum().item()):
            self._trace(trainer, pl_module, lambda: None)

    def look_at_sample(
        self,
        trainer: Trainer,
        observation: Observation,
        losses: Sequence[tuple[int, int, float]],
        history: History,
        waiting: bool,
    ) -> None:
        """Look at what a sample has brought to the host, and gather what all ranks have seen; on all ranks.

        Args:
            trainer: the run.
            observation: the sampled step.
            losses: optimizer step, batch index and loss of the steps since the last sample.
            history: before this sample.
            waiting: whether any rank has seen something.
        """
        if waiting:
            found = [event for part in gather_objects(self.events) for event in part]  # type: ignore[attr-defined]
            self.events = sorted(found, key=lambda event: (event.step, event.direction == "unknown", event.rank))[:1]
            return
        known = history.last_nonfinite
        for step, batch, loss in losses:
            if not math.isfinite(loss):
                if known < step - 1:
                    detail = "check_every_step=True names the module"
                    self.events = [NonfiniteEvent(step, batch, 0, "unknown", "", detail)]
                    return
                known = step
        bad = [layer.name for layer in observation.layers if not math.isfinite(layer.gradient or 0.0)]
        if bad and not self.lasting and loss_scale_of(trainer) is None:
            detail = f"the gradients of {len(bad)} layers are not finite"
            index = batch_index(trainer)
            self.events = [NonfiniteEvent(observation.step, index, 0, "backward", bad[-1], detail)]

    def _looks_at(self, tensor: Tensor) -> bool:
        return tensor.device.type == "cpu" if self._check_every_step is None else self._check_every_step

    def _trace(self, trainer: Trainer, pl_module: LightningModule, look_first: Callable[[], Origin | None]) -> None:
        """Note the first non-finite value of a stretch, and where it comes from."""
        if self.lasting:
            return
        self.lasting = True
        step, index = logging_step(trainer), batch_index(trainer)
        origin = look_first()
        if origin is None:
            try:
                origin = search(pl_module, self.batch)
            except Exception as error:  # a second run of user code may fail where the first did not
                origin = Origin("unknown", detail=f"the step cannot be run again: {error}")
        detail = origin.detail
        if self._dump_dir is not None:
            path = Path(self._dump_dir) / f"nonfinite_step_{step}_rank_{trainer.global_rank}.pt"
            about = {"step": step, "batch_index": index, "layer": origin.layer}
            detail += f"; {dump(path, pl_module, self.batch, about)}"
        self.events.append(NonfiniteEvent(step, index, trainer.global_rank, origin.direction, origin.layer, detail))


def _sentinel(optimizer: Optimizer) -> Tensor | None:
    """Return the gradient that the backward pass reached last, which inherits what went wrong before it.

    A vector where there is one among the first parameters, because it is read every step.
    """
    gradients = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            gradient = None if parameter.grad is None else on_this_rank(parameter.grad)
            if gradient is not None and type(gradient) is Tensor and gradient.layout == torch.strided:
                gradients.append(gradient)
                if len(gradients) == 2:
                    return min(gradients, key=Tensor.numel)
    return gradients[0] if gradients else None
