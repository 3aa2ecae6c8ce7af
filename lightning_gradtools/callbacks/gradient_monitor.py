"""Gradient norms of every layer while a network trains, for the price of clipping alone."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.optim import Optimizer

from lightning_gradtools.arguments import integer
from lightning_gradtools.callbacks.bulk_logging import lightning_step, log_scalars
from lightning_gradtools.callbacks.gradient_pass import GradientPass, gradient_pass, parameter_names
from lightning_gradtools.callbacks.layers import LayerGrouping, Patterns, largest, norm_of_layers
from lightning_gradtools.callbacks.norm_type import norm_type_of
from lightning_gradtools.callbacks.observer import Observer, logs_at, steps_aside
from lightning_gradtools.gradients.clipping import clip_coefficient
from lightning_gradtools.gradients.norms import gradient_norms


@dataclass(frozen=True)
class GradientRecord:
    """What the monitor found at one logged step.

    Attributes:
        step: Lightning's logging step, as on TensorBoard's horizontal axis.
        values: the logged values by key.
    """

    step: int
    values: Mapping[str, float]


class GradientMonitor(Observer):
    r"""Logs the norm of every layer's gradient and of all together, before clipping and after.

    ====================================  ============================================
    =========================== key                                   value (unit)
         when ====================================  ============================================
    =========================== ``grad_norm/total``                   norm of all gradients before clipping
                                               every logged step (loss per unit of parameter)
    ``grad_norm/<layer>``                 the same of one layer                         unless ``top_k=0``
    ``grad_norm_clipped/total``           norm of all gradients after clipping          if anything clips
    ``grad_norm_clipped/<layer>``         the same of one layer                         if layers are not all
                                                                                        scaled by one
    coefficient ====================================  ============================================
    ===========================

    With several optimizers every key ends in ``/optimizer_0``, ``/optimizer_1`` and so on. Steps are
    Lightning's own logging steps. ``trainer.callback_metrics`` holds the totals, for ``EarlyStopping`` and
    sweeps.

    The gradients are read once, in ``on_before_optimizer_step`` and only on steps that are logged, together
    with all other callbacks of this package that need them. Nothing is changed: weights are the same bit by
    bit without the monitor. If it fails it warns once and steps aside.

    Args:
        log_every_n_steps: optimizer steps between two logged ones; None follows the Trainer's
        ``log_every_n_steps``. norm_type: 2, 1 or ``"inf"``.
        group_by: what a layer is: ``"parameter"``, ``"module"`` or a regular expression on parameter names,
            whose first group (or whole match) names the layer.
        include: regular expressions; only parameters in whose name one is found are reported. Totals have
        all. exclude: regular expressions of parameters not to report.
        top_k: report only this many layers, those of largest norm; 0 only the totals; None every layer.
        progress_bar: whether to show the total as ``grad_norm`` in the progress bar, refreshed when logged.
        history_size: number of latest records kept in ``history``.
        logs_per_flush: number of logged steps kept on the device before one transfer brings them to the host,
            which has to wait for the device then. ``history``, the progress bar and ``callback_metrics`` lag
        as much. prefix: put before every key, to tell several monitors apart.

    Raises:
        ArgumentError: if an argument is none of the above.

    Attributes:
        history: the latest :class:`GradientRecord` s, oldest first.
    """

    def __init__(
        self,
        log_every_n_steps: int | None = None,
        *,
        norm_type: float | str = 2,
        group_by: str = "parameter",
        include: Patterns = (),
        exclude: Patterns = (),
        top_k: int | None = None,
        progress_bar: bool = False,
        history_size: int = 1000,
        logs_per_flush: int = 1,
        prefix: str = "",
    ) -> None:
        if log_every_n_steps is not None:
            integer("log_every_n_steps", log_every_n_steps, at_least=1)
        if top_k is not None:
            integer("top_k", top_k, at_least=0)
        self.log_every_n_steps = log_every_n_steps
        self.norm_type = norm_type_of(norm_type)
        self.top_k = top_k
        self.progress_bar = progress_bar
        self.logs_per_flush = integer("logs_per_flush", logs_per_flush, at_least=1)
        self.prefix = prefix
        self.history: deque[GradientRecord] = deque(maxlen=integer("history_size", history_size, at_least=0))
        self._grouping = LayerGrouping(group_by, include, exclude)
        self._layer_of: dict[int, str | None] = {}
        self._seen: dict[int, GradientPass] = {}  # this batch's pass of each optimizer, by its index
        self._pending: list[_Pending] = []

    @property
    def state_key(self) -> str:
        return f"{type(self).__qualname__}{self.prefix and f'[{self.prefix}]'}"

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.failure = None
        self._layer_of.clear()
        self.release()

    def release(self) -> None:
        self._seen.clear()
        self._pending.clear()

    @steps_aside
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        if logs_at(lightning_step(trainer), self.log_every_n_steps, trainer):
            index = trainer.optimizers.index(optimizer)
            self._seen[index] = gradient_pass(trainer, optimizer, self, self.norm_type)

    @steps_aside
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._seen:
            return
        step = lightning_step(trainer)
        for index, seen in self._seen.items():
            suffix = f"/optimizer_{index}" if len(trainer.optimizers) > 1 else ""
            self._pending.append(self._pend(trainer, pl_module, seen, step, suffix))
        self._seen.clear()
        if len({pending.step for pending in self._pending}) >= self.logs_per_flush:
            self._flush(trainer)

    @steps_aside
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._flush(trainer)

    @steps_aside
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._flush(trainer)

    def _pend(
        self, trainer: Trainer, module: LightningModule, seen: GradientPass, step: int, suffix: str
    ) -> "_Pending":
        """Bring what ``seen`` holds into one tensor, still on the device."""
        norms = seen.norms
        factors = self._clipping_factors(trainer, module, seen)
        columns = [norms.total.reshape(1), norms.per_parameter]
        uniform = factors is not None and factors.ndim == 0
        if factors is not None and uniform:
            columns.append((norms.total * factors).reshape(1))
        elif factors is not None:
            columns += [torch.linalg.vector_norm(norms.per_parameter * factors, self.norm_type).reshape(1)]
            columns += [norms.per_parameter * factors]
        elif seen.rewritten:
            clipped = gradient_norms(norms.parameters, self.norm_type)
            columns += [clipped.total.reshape(1), clipped.per_parameter]
        return _Pending(step, suffix, self._layers(module, norms.parameters), torch.cat(columns))

    def _clipping_factors(
        self, trainer: Trainer, module: LightningModule, seen: GradientPass
    ) -> Tensor | None:
        """Return the factors that clipping applied, as a callback noted them or as the Trainer does it."""
        if seen.factors is not None or seen.rewritten or not trainer.gradient_clip_val:
            return seen.factors
        by_norm = trainer.gradient_clip_algorithm in (None, "norm") and self.norm_type == 2
        if by_norm and not is_overridden("configure_gradient_clipping", module, LightningModule):
            return clip_coefficient(seen.norms.total, trainer.gradient_clip_val)
        seen.rewritten = True
        return None

    def _layers(self, module: LightningModule, parameters: Any) -> list[str | None]:
        if any(id(parameter) not in self._layer_of for parameter in parameters):
            names = parameter_names(module)
            for position, parameter in enumerate(parameters):
                name = names.get(id(parameter), f"not_in_module.{position}")
                self._layer_of[id(parameter)] = self._grouping.layer(name)
        return [self._layer_of[id(parameter)] for parameter in parameters]

    def _flush(self, trainer: Trainer) -> None:
        """Bring what is pending to the host in one transfer, and log it."""
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        values = iter(torch.cat([record.columns for record in pending]).tolist())
        logged: dict[int, dict[str, float]] = {}
        for record in pending:
            columns = [next(values) for _ in record.columns]
            logged.setdefault(record.step, {}).update(self._named(record, columns))
        for step, scalars in logged.items():
            self.history.append(GradientRecord(step, scalars))
            log_scalars(trainer, scalars, step)
        self._publish(trainer, scalars)

    def _named(self, record: "_Pending", columns: list[float]) -> dict[str, float]:
        count = len(record.layers)
        scalars: dict[str, float] = {}

        def put(quantity: str, total: float, norms: list[float]) -> None:
            scalars[f"{self.prefix}{quantity}/total{record.suffix}"] = total
            if self.top_k == 0 or not norms:
                return
            layers = largest(norm_of_layers(record.layers, norms, self.norm_type), self.top_k)
            for layer, norm in layers.items():
                scalars[f"{self.prefix}{quantity}/{layer}{record.suffix}"] = norm

        put("grad_norm", columns[0], columns[1 : count + 1])
        if len(columns) > count + 1:
            put("grad_norm_clipped", columns[count + 1], columns[count + 2 :])
        return scalars

    def _publish(self, trainer: Trainer, scalars: Mapping[str, float]) -> None:
        totals = {key: value for key, value in scalars.items() if "/total" in key}
        trainer.callback_metrics.update({key: torch.tensor(value) for key, value in totals.items()})
        if self.progress_bar:
            first = f"{self.prefix}grad_norm"
            shown = {key: value for key, value in totals.items() if key.startswith(f"{first}/total")}
            trainer.progress_bar_metrics.update(
                {key.replace("/total", ""): value for key, value in shown.items()}
            )


@dataclass(frozen=True)
class _Pending:
    """One optimizer's logged step, on the device: the total, n norms, and the same after clipping."""

    step: int
    suffix: str
    layers: list[str | None]
    columns: Tensor
