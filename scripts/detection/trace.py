"""Records a run: its true state every few steps, and at each step what the labels and the rivals' rules need."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from detection.data import Data
from detection.experiment import Experiment
from detection.measurement import Measurement, measure
from detection.rivals import Rivals

DENSE = (1, 2, 5, *range(10, 100, 10))
EVERY = 20


class Trace(Callback):
    """Measures at steps 0, 1, 2, 5, every 10th to 100 and every 20th after; losses and gradients at each.

    Attributes:
        losses: trained loss of each batch's last micro-batch.
        grad_norms: norm of the whole gradient at each step, before clipping.
        nonfinite_step: first step after which the loss or a weight is NaN or infinite.
        never: names of trainable parameters whose gradient has been absent or exactly zero so far.
        layers: paths of all modules.
    """

    def __init__(self, data: Data, rivals: Rivals) -> None:
        self.data, self.rivals = data, rivals
        self.measurements: list[Measurement] = []
        self.losses: list[float] = []
        self.grad_norms: list[float] = []
        self.nonfinite_step: int | None = None
        self.never: set[str] = set()
        self.layers: list[str] = []
        self._pending: dict[str, Tensor] = {}
        self._last_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.never = {name for name, p in pl_module.named_parameters() if p.requires_grad}
        self.layers = [name for name, _ in pl_module.named_modules() if name]
        self._measure(pl_module, 0)
        assert isinstance(pl_module, Experiment)
        self.rivals.start(pl_module, self.measurements[-1])

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for name, parameter in pl_module.named_parameters():
            if id(parameter) in mine and parameter.grad is not None:
                gradient = parameter.grad.detach()
                self._pending[name] = gradient.to_dense().clone() if gradient.is_sparse else gradient.clone()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step == self._last_step:  # a micro-batch of an accumulation
            return
        loss = float(outputs["loss"] if isinstance(outputs, dict) else outputs)
        self.losses.append(loss)
        norms = list(torch._foreach_norm(list(self._pending.values()))) if self._pending else []
        self.grad_norms.append(float(torch.stack(norms).norm()) if norms else 0.0)
        self.never -= {name for name, norm in zip(self._pending, norms, strict=True) if norm != 0}
        weights = torch.stack([*torch._foreach_norm([p.detach() for p in pl_module.parameters()])])
        if self.nonfinite_step is None and not (bool(weights.isfinite().all()) and torch.tensor(loss).isfinite()):
            self.nonfinite_step = step
        due = step // EVERY > self._last_step // EVERY or any(self._last_step < s <= step for s in DENSE)
        if due:
            self._measure(pl_module, step)
        assert isinstance(pl_module, Experiment)
        self.rivals.step(pl_module, step, loss, self._pending, batch, self.measurements[-1] if due else None)
        self._pending = {}
        self._last_step = step

    def _measure(self, pl_module: LightningModule, step: int) -> None:
        assert isinstance(pl_module, Experiment)
        self.measurements.append(measure(pl_module, self.data, step))

    def as_dict(self) -> dict[str, Any]:
        """Return the record, as JSON can hold it."""
        return {
            "measurements": [each.as_dict() for each in self.measurements],
            "losses": [float(f"{x:.5g}") for x in self.losses],
            "grad_norms": [float(f"{x:.5g}") for x in self.grad_norms],
            "nonfinite_step": self.nonfinite_step,
            "never": sorted(self.never),
            "layers": self.layers,
            "constant_loss": self.data.constant_loss,
        }
