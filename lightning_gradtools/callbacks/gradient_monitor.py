"""Gradient norms of every layer while a network trains, for the price of clipping alone."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.data import extract_batch_size
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.optim import Optimizer

from lightning_gradtools.arguments import integer
from lightning_gradtools.callbacks.bulk_logging import lightning_step, log_figure, log_histograms, log_scalars, publish
from lightning_gradtools.callbacks.gradient_pass import (
    GradientPass,
    gradient_pass,
    loss_scale_of,
    optimizer_parameters,
    parameter_names,
)
from lightning_gradtools.callbacks.gradient_report import Keys, Report, Section, bring_to_host
from lightning_gradtools.callbacks.layers import LayerGrouping, LayerTable, Patterns
from lightning_gradtools.callbacks.micro_batches import MicroBatchNorms
from lightning_gradtools.callbacks.norm_type import norm_type_of
from lightning_gradtools.callbacks.observer import Observer, logs_at, steps_aside
from lightning_gradtools.dashboards.gradients import norms_over_depth
from lightning_gradtools.distributed import mean_over_ranks
from lightning_gradtools.gradients.clipping import clip_coefficient
from lightning_gradtools.gradients.direction import inner_products
from lightning_gradtools.gradients.histogram import Histogram, histogram
from lightning_gradtools.gradients.noise_scale import NoiseScale
from lightning_gradtools.gradients.norms import gradient_norms, tensor_norms, total_norm

_RATE_WINDOW = 100  # logged steps over which the Trainer's clip rate runs


@dataclass(frozen=True)
class GradientRecord:
    """What the monitor found at one logged step.

    Attributes:
        step: Lightning's logging step, as on TensorBoard's horizontal axis.
        values: the logged values by key.
    """

    step: int
    values: Mapping[str, float]


@dataclass
class _Watched:
    """One optimizer's step between its first hook and the end of the batch."""

    seen: GradientPass
    sections: list[Section]
    batch_sizes: tuple[int, int] | None = None
    old_weights: list[Tensor] = field(default_factory=list)
    histograms: dict[str, Histogram] = field(default_factory=dict)


@dataclass(frozen=True)
class _Direction:
    """A copy of one step's gradients, to compare the next step's with."""

    step: int
    parameters: Sequence[Tensor]
    gradients: list[Tensor]


class GradientMonitor(Observer):
    r"""Logs the norm of every layer's gradient and of all together, before clipping and after.

    ===============================  ================================================  ======================
    key                              value (unit)                                      when
    ===============================  ================================================  ======================
    ``grad_norm/total``              norm of all gradients before clipping             every logged step
                                     (loss per unit of parameter)
    ``grad_norm/<layer>``            the same of one layer                             unless ``top_k=0``
    ``grad_norm_clipped/total``      norm of all gradients after clipping              if something clips
    ``grad_norm_clipped/<layer>``    the same of one layer                             if layers are scaled
                                                                                       differently
    ``clip/coefficient``             what the Trainer multiplied all gradients by      if it clips by norm
    ``clip/rate``                    share of the last 100 logged steps it clipped     if it clips by norm
    ``weight_norm/...``              norm of the weights before the step               ``weight_norm=True``
    ``update_ratio/...``             norm of the step's change of the weights / norm   ``update_ratio=True``
                                     of these before it (none where that is 0)
    ``grad_cosine/...``              cosine between this step's gradient and the       ``cosine=True``
                                     one's before
    ``grad_noise/scale``             critical batch size tr Σ / ‖G‖² (samples); none   ``noise_scale=True``
                                     while noise drowns an estimate
    ``grad_noise/signal``            moving average of ‖G‖²                            ``noise_scale=True``
    ``grad_noise/trace``             moving average of tr Σ                            ``noise_scale=True``
    ``grad_norm/over_depth``         figure: norm of each layer over depth, for a      end of training, in
                                     few steps                                         TensorBoard only
    ``grad_histogram/<parameter>``   64 bins, in TensorBoard only                      ``histograms=True``
    ===============================  ================================================  ======================

    ``...`` stands for ``total`` and each layer. With several optimizers every key ends in ``/optimizer_0``,
    ``/optimizer_1`` and so on. Steps are Lightning's own logging steps. With ``GradientClipping`` the
    ``clip/`` keys are logged by it. ``trainer.callback_metrics`` holds the totals, ``clip/`` and
    ``grad_noise/``, for ``EarlyStopping`` and sweeps.

    The gradients are read once, in ``on_before_optimizer_step`` and only on steps that are logged, together
    with all other callbacks of this package that need them. Nothing is changed: weights are the same bit by
    bit without the monitor. If it fails it warns once and steps aside.

    Args:
        log_every_n_steps: optimizer steps between two logged ones; None follows the Trainer's.
        norm_type: 2, 1 or ``"inf"``: the norm of gradients, weights and updates.
        group_by: what a layer is: ``"parameter"``, ``"module"`` or a regular expression on parameter names,
            whose first group (or whole match) names the layer.
        include: regular expressions; only parameters in whose name one is found are reported. Totals have
        all.
        exclude: regular expressions of parameters not to report.
        top_k: report only this many layers, those of largest gradient; 0 only totals; None every layer.
        progress_bar: whether to show the total as ``grad_norm`` in the progress bar, refreshed when logged.
        weight_norm: whether to log the norms of the weights.
        update_ratio: whether to log how far the step moved the weights, by any optimizer. Keeps a copy of the
            weights during a logged step. Around 1e-3 is usual.
        cosine: whether to log the cosine between successive gradients. Keeps a copy of the gradients of the
            step before a logged one.
        noise_scale: whether to estimate the gradient noise scale (see ``gradients/noise_scale.py``), from the
            micro-batches of gradient accumulation or the ranks of DDP; says so if there is neither.
        histograms: whether to log histograms of gradients. The host waits for each of them.
        history_size: number of latest records kept in ``history``.
        logs_per_flush: number of logged steps kept on the device before one transfer brings them to the host,
            which has to wait for the device then. ``history``, the progress bar, ``callback_metrics`` and the
            logs lag as much; steps are right all the same.
        prefix: put before every key, to tell several monitors apart.

    Raises:
        ArgumentError: if an argument is none of the above.

    Attributes:
        history: the latest :class:`GradientRecord` s, oldest first. It begins anew on resume.
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
        weight_norm: bool = False,
        update_ratio: bool = False,
        cosine: bool = False,
        noise_scale: bool = False,
        histograms: bool = False,
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
        self.weight_norm = weight_norm
        self.update_ratio = update_ratio
        self.cosine = cosine
        self.noise_scale = noise_scale
        self.histograms = histograms
        self.logs_per_flush = integer("logs_per_flush", logs_per_flush, at_least=1)
        self.prefix = prefix
        self.history: deque[GradientRecord] = deque(maxlen=integer("history_size", history_size, at_least=0))
        self._grouping = LayerGrouping(group_by, include, exclude)
        self._names: dict[int, tuple[str, str | None]] = {}  # name and layer of a parameter, by its id
        self._tables: dict[int, tuple[list[int], LayerTable, Keys]] = {}  # with ids, by the optimizer's index
        self._watched: dict[int, _Watched] = {}  # by the optimizer's index
        self._directions: dict[int, _Direction] = {}
        self._new_directions: dict[int, _Direction] = {}
        self._micro_batches: MicroBatchNorms | None = None
        self._told_no_noise = False
        self._pending: list[Report] = []
        self._noise = NoiseScale()
        self._clipped: deque[bool] = deque(maxlen=_RATE_WINDOW)

    @property
    def state_key(self) -> str:
        return f"{type(self).__qualname__}{self.prefix and f'[{self.prefix}]'}"

    def state_dict(self) -> dict[str, Any]:
        return {"noise": asdict(self._noise), "clipped": list(self._clipped)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._noise = NoiseScale(**state_dict["noise"])
        self._clipped.extend(state_dict["clipped"])

    def release(self) -> None:
        self._watched.clear()
        self._directions.clear()
        self._new_directions.clear()
        self._pending.clear()
        self._stop_watching_micro_batches()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.failure = None
        self._names.clear()
        self._tables.clear()
        self._told_no_noise = False
        self.release()

    @steps_aside
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if not self.noise_scale or not self._logs_at(trainer, lightning_step(trainer)):
            return
        if self._micro_batches is None and self._can_tell_noise(trainer, pl_module):
            self._micro_batches = MicroBatchNorms(optimizer_parameters(trainer.optimizers[0]))
        if self._micro_batches is not None:
            self._micro_batches.sizes.append(extract_batch_size(batch))

    @steps_aside
    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._micro_batches is not None:
            self._micro_batches.end_backward(loss_scale_of(trainer))

    @steps_aside
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        step, index = lightning_step(trainer), trainer.optimizers.index(optimizer)
        if self._logs_at(trainer, step):
            seen = gradient_pass(trainer, optimizer, self, self.norm_type)
            norms = seen.norms
            watched = _Watched(seen, [Section("grad_norm", norms.total, norms.per_parameter)])
            self._watched[index] = watched
            if self.weight_norm:
                watched.sections.append(self._norms("weight_norm", norms.parameters))
            if self.update_ratio:
                watched.old_weights = [parameter.detach().clone() for parameter in norms.parameters]
            if self.cosine:
                watched.sections += self._compare_direction(step, index, seen)
            if self._micro_batches is not None:
                self._measure_noise(trainer, optimizer, watched)
            if self.histograms:
                watched.histograms = dict(self._histograms(pl_module, seen))
        if self.cosine and self._logs_at(trainer, step + 1):
            parameters = [each for each in optimizer_parameters(optimizer) if each.grad is not None]
            copies = [each.grad.clone() for each in parameters if each.grad is not None]
            self._new_directions[index] = _Direction(step, parameters, copies)

    @steps_aside
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._new_directions:
            self._directions, self._new_directions = self._new_directions, {}
        if not self._watched:
            return
        step = lightning_step(trainer)
        for index, watched in self._watched.items():
            self._pending.append(self._report(trainer, pl_module, watched, step, index))
            log_histograms(trainer, watched.histograms, step)
        self._watched.clear()
        self._stop_watching_micro_batches()
        if len({report.step for report in self._pending}) >= self.logs_per_flush:
            self._flush(trainer)

    @steps_aside
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._flush(trainer)

    @steps_aside
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._flush(trainer)

    @steps_aside
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._flush(trainer)  # what led up to a crash is what one wants to see
        self._draw(trainer)

    @steps_aside
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw(trainer)

    def _draw(self, trainer: Trainer) -> None:
        """Log the figure of the layers' norms over depth; with several optimizers each layer has its own anyway."""
        start = f"{self.prefix}grad_norm/"
        norms = [
            {
                key.removeprefix(start): value
                for key, value in record.values.items()
                if key.startswith(start) and not key.startswith(f"{start}total")
            }
            for record in self.history
        ]
        steps = [record.step for record in self.history]
        if any(norms):
            log_figure(trainer, f"{start}over_depth", lambda: norms_over_depth(steps, norms), steps[-1])

    def _logs_at(self, trainer: Trainer, step: int) -> bool:
        return logs_at(step, self.log_every_n_steps, trainer)

    # --- what is measured, all of it on the device
    # -------------------------------------------------------------

    def _norms(self, quantity: str, tensors: Sequence[Tensor]) -> Section:
        norms = tensor_norms([tensor.detach() for tensor in tensors], self.norm_type)
        return Section(quantity, total_norm(norms, self.norm_type), norms)

    def _compare_direction(self, step: int, index: int, seen: GradientPass) -> Iterator[Section]:
        last = self._directions.get(index)
        parameters = seen.norms.parameters
        if last is None or last.step != step - 1 or list(map(id, last.parameters)) != list(map(id, parameters)):
            return
        now, before = seen.norms.gradients(), last.gradients
        for quantity, pair in {
            "inner_product": (now, before),
            "square_now": (now, now),
            "square_before": (before, before),
        }.items():
            yield Section(quantity, per_parameter=inner_products(*pair))

    def _can_tell_noise(self, trainer: Trainer, module: LightningModule) -> bool:
        """Say whether gradients of two batch sizes are there to compare; if not, tell why, once."""
        reason = None
        if not module.automatic_optimization:
            reason = "under manual optimization micro-batches cannot be told from steps"
        elif not isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy)):
            reason = f"{type(trainer.strategy).__name__} does not show the gradient of one rank"
        elif trainer.accumulate_grad_batches * trainer.world_size < 2:
            reason = "it needs accumulate_grad_batches >= 2 or DDP with two ranks"
        if reason and not self._told_no_noise:
            self._told_no_noise = True
            rank_zero_warn(f"GradientMonitor(noise_scale=True): not measured, {reason}")
        return reason is None

    def _measure_noise(self, trainer: Trainer, optimizer: Optimizer, watched: _Watched) -> None:
        micro, count = self._micro_batches, trainer.accumulate_grad_batches
        if micro is None or len(micro.squared) != count or len(set(micro.sizes)) != 1:
            return  # the window at the end of an epoch is short, or its batches differ
        squares = watched.seen.norms.total
        if self.norm_type != 2:
            squares = gradient_pass(trainer, optimizer, self, 2.0).norms.total
        # Lightning divides the loss by the number of micro-batches.
        small = mean_over_ranks(torch.stack(micro.squared).mean() * count**2)
        watched.sections += [Section("noise_small", small), Section("noise_big", squares.square())]
        watched.batch_sizes = (micro.sizes[0], micro.sizes[0] * count * trainer.world_size)

    def _stop_watching_micro_batches(self) -> None:
        if self._micro_batches is not None:
            self._micro_batches.remove()
            self._micro_batches = None

    def _histograms(self, module: LightningModule, seen: GradientPass) -> Iterator[tuple[str, Histogram]]:
        for parameter, gradient in zip(seen.norms.parameters, seen.norms.gradients(), strict=True):
            name, layer = self._name(module, parameter)
            found = None
            if layer is not None:
                found = histogram(gradient if seen.loss_scale is None else gradient / seen.loss_scale)
            if found is not None:
                yield f"{self.prefix}grad_histogram/{name}", found

    def _report(self, trainer: Trainer, module: LightningModule, watched: _Watched, step: int, index: int) -> Report:
        """Add what can only be known after the step."""
        parameters = watched.seen.norms.parameters
        sections = [*watched.sections, *self._after_clipping(trainer, module, watched.seen)]
        if watched.old_weights:
            old = watched.old_weights
            sections.append(self._norms("old_weight_norm", old))
            for before, parameter in zip(old, parameters, strict=True):
                before.sub_(parameter.detach())  # in place: the copy is not needed any more
            sections.append(self._norms("update_norm", old))
        table, keys = self._layers(trainer, module, parameters, index)
        return Report(step, table, keys, sections, watched.batch_sizes)

    def _layers(
        self, trainer: Trainer, module: LightningModule, parameters: Sequence[Tensor], index: int
    ) -> tuple[LayerTable, Keys]:
        """Return the layers of ``parameters`` and their keys, as a rule the same step after step."""
        ids = list(map(id, parameters))
        known = self._tables.get(index)
        if known is None or known[0] != ids:
            table = LayerTable([self._name(module, parameter)[1] for parameter in parameters])
            suffix = f"/optimizer_{index}" if len(trainer.optimizers) > 1 else ""
            known = self._tables[index] = ids, table, Keys(table.names, self.prefix, suffix)
        return known[1], known[2]

    def _after_clipping(self, trainer: Trainer, module: LightningModule, seen: GradientPass) -> Iterator[Section]:
        """Give the norms after clipping: by arithmetic from those before it where that is possible."""
        norms, factors, measure = seen.norms, seen.factors, seen.rewritten
        limit = trainer.gradient_clip_val
        if (
            factors is None
            and not measure
            and (limit or is_overridden("configure_gradient_clipping", module, LightningModule))
        ):
            by_norm = trainer.gradient_clip_algorithm in (None, "norm") and self.norm_type == 2
            measure = not by_norm or is_overridden("configure_gradient_clipping", module, LightningModule)
            if not measure:
                factors = clip_coefficient(norms.total, float(limit or 0))
                yield Section("trainers_coefficient", factors)
        if measure:
            clipped = gradient_norms(norms.parameters, self.norm_type)
            if len(clipped.per_parameter) == len(norms.per_parameter):
                yield Section("grad_norm_clipped", clipped.total, clipped.per_parameter)
        elif factors is not None and factors.ndim == 0:
            yield Section("grad_norm_clipped", norms.total * factors)
        elif factors is not None:
            per_parameter = norms.per_parameter * factors
            yield Section("grad_norm_clipped", total_norm(per_parameter, self.norm_type), per_parameter)

    def _name(self, module: LightningModule, parameter: Tensor) -> tuple[str, str | None]:
        """Return the name and the layer of ``parameter``."""
        if id(parameter) not in self._names:
            self._names.update(
                {key: (name, self._grouping.layer(name)) for key, name in parameter_names(module).items()}
            )
            self._names.setdefault(id(parameter), ("", None))  # an optimizer may hold what no module does
        return self._names[id(parameter)]

    # --- what is logged, on the host
    # ---------------------------------------------------------------------------

    def _flush(self, trainer: Trainer) -> None:
        """Bring what is pending to the host in one transfer, and log it."""
        if not self._pending:
            return
        reports, self._pending = self._pending, []
        bring_to_host(reports)
        logged: dict[int, dict[str, float]] = {}
        latest: dict[str, float] = {}
        for report in reports:
            totals, layers = report.scalars(self.norm_type, self.top_k)
            totals.update((self.prefix + key, value) for key, value in self._running_scalars(report).items())
            logged.setdefault(report.step, {}).update({**totals, **layers})
            latest.update(totals)
        self._publish(trainer, latest)
        for step, scalars in logged.items():
            self.history.append(GradientRecord(step, scalars))
            log_scalars(trainer, scalars, step)

    def _running_scalars(self, report: Report) -> dict[str, float]:
        """Return the values that depend on the steps before."""
        scalars: dict[str, float] = {}
        if (coefficient := report.totals.get("trainers_coefficient")) is not None:
            self._clipped.append(coefficient < 1)
            scalars["clip/coefficient"] = coefficient
            scalars["clip/rate"] = sum(self._clipped) / len(self._clipped)
        if report.batch_sizes is not None:
            small, big = report.totals["noise_small"], report.totals["noise_big"]
            if isfinite(small) and isfinite(big):
                self._noise.update(small, report.batch_sizes[0], big, report.batch_sizes[1])
            if self._noise.weight:
                scalars["grad_noise/signal"] = self._noise.signal / self._noise.weight
                scalars["grad_noise/trace"] = self._noise.noise / self._noise.weight
            if self._noise.scale is not None:
                scalars["grad_noise/scale"] = self._noise.scale
        return scalars

    def _publish(self, trainer: Trainer, totals: Mapping[str, float]) -> None:
        """Put totals where ``EarlyStopping``, sweeps and the progress bar look."""
        publish(trainer, totals)
        if self.progress_bar:
            start = f"{self.prefix}grad_norm/total"
            shown = {key.replace("/total", ""): value for key, value in totals.items() if key.startswith(start)}
            trainer.progress_bar_metrics.update(shown)
