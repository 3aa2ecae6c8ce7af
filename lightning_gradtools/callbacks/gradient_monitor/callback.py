"""Gradient norms of every layer while a network trains, for the price of clipping alone."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch.optim import Optimizer

from lightning_gradtools._lightning.fail_safe import Observer
from lightning_gradtools._lightning.gradient_pass import GradientPass, gradient_pass
from lightning_gradtools._lightning.loop import is_logged, logging_step, publish
from lightning_gradtools._lightning.strategy import require_whole_gradients
from lightning_gradtools.arguments import integer
from lightning_gradtools.callbacks.gradient_monitor.layer_tables import LayerTables
from lightning_gradtools.callbacks.gradient_monitor.measurements.clipped_norms import norms_after_clipping
from lightning_gradtools.callbacks.gradient_monitor.measurements.cosine import SuccessiveGradients
from lightning_gradtools.callbacks.gradient_monitor.measurements.noise_scale import NoiseMeasurement
from lightning_gradtools.callbacks.gradient_monitor.measurements.update_ratio import WeightUpdate
from lightning_gradtools.callbacks.gradient_monitor.report import Report, Section, bring_to_host, norms_of
from lightning_gradtools.gradients.clipping import RATE_WINDOW
from lightning_gradtools.gradients.histogram import Histogram, histogram
from lightning_gradtools.gradients.layers import LayerGrouping, Patterns
from lightning_gradtools.gradients.noise_scale import NoiseScale
from lightning_gradtools.gradients.norm_type import norm_type_of
from lightning_gradtools.reporting.figures.gradients import norms_over_depth
from lightning_gradtools.reporting.loggers import log_figure, log_histograms, log_scalars


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
    update: WeightUpdate | None = None
    histograms: dict[str, Histogram] = field(default_factory=dict)


class GradientMonitor(Observer):
    r"""Logs the norm of every layer's gradient and of all together, before clipping and after.

    ===============================  ==================================================  ======================
    key                              value (unit)                                        when
    ===============================  ==================================================  ======================
    ``grad_norm/total``              norm of all gradients before clipping               always
                                     (loss per unit of parameter)
    ``grad_norm/<layer>``            the same of one layer                               unless ``top_k=0``
    ``grad_norm_clipped/total``      norm of all gradients after clipping                if something clips
    ``grad_norm_clipped/<layer>``    the same of one layer                               if something clips, not
                                                                                         all by one factor
    ``clip/coefficient``             factor of the Trainer's clipping on all gradients   if it clips by norm
                                     (1: it did not clip)                                and ``norm_type=2``
    ``clip/rate``                    share of the latest 100 logged steps that it        the same
                                     clipped
    ``weight_norm/...``              norm of the weights before the step                 ``weight_norm=True``
    ``update_ratio/...``             norm of the step's change of the weights, divided   ``update_ratio=True``
                                     by their norm before it (left out where it is 0)
    ``grad_cosine/...``              cosine between the gradients of this step and of    ``cosine=True``
                                     the step before it, from -1 to 1
    ``grad_noise/scale``             critical batch size tr Σ / ‖G‖² (samples; left      ``noise_scale=True``
                                     out while noise drowns the estimate)
    ``grad_noise/signal``            moving average of ‖G‖², the squared norm of the     ``noise_scale=True``
                                     true gradient
    ``grad_noise/trace``             moving average of tr Σ, the variance of one         ``noise_scale=True``
                                     sample's gradient
    ``grad_histogram/<parameter>``   histogram of the gradient before clipping, in 64    ``histograms=True``
                                     bins (TensorBoard only)
    ``grad_norm/over_depth``         figure: ``grad_norm`` of each layer over depth,     once, when training
                                     a line for each of a few steps (TensorBoard only,   ends
                                     with matplotlib)
    ===============================  ==================================================  ======================

    ``...`` stands for ``total`` and each layer; of parameters, those count that have a gradient. All but the
    figure are logged on Lightning's own logging steps, or every ``log_every_n_steps``. With several optimizers
    every scalar's key ends in ``/optimizer_0``, ``/optimizer_1`` and so on. If ``GradientClipping`` clips, the
    ``clip/`` keys are its own. ``trainer.callback_metrics`` holds the totals, ``clip/`` and ``grad_noise/``,
    for ``EarlyStopping`` and sweeps.

    The gradients are read in ``on_before_optimizer_step`` and only on logged steps, in one pass that serves
    every callback of this package. Nothing is changed: weights are the same bit by bit without the monitor.
    If it fails it warns once and steps aside.

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
        ArgumentError: if an argument is none of the above; at fit start, if the strategy keeps whole gradients
            out of a callback's reach (FSDP1, DeepSpeed).

    Attributes:
        history: one :class:`GradientRecord` for each of the latest logged steps, oldest first. It begins anew on
            resume.
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
        self._layers = LayerTables(LayerGrouping(group_by, include, exclude), prefix)
        self._noise = NoiseMeasurement()
        self._successive = SuccessiveGradients()
        self._watched: dict[int, _Watched] = {}  # by the optimizer's index
        self._pending: list[Report] = []
        self._clipped: deque[bool] = deque(maxlen=RATE_WINDOW)

    @property
    def state_key(self) -> str:
        return f"{type(self).__qualname__}{self.prefix and f'[{self.prefix}]'}"

    def state_dict(self) -> dict[str, Any]:
        return {"noise": asdict(self._noise.averages), "clipped": list(self._clipped)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._noise.averages = NoiseScale(**state_dict["noise"])
        self._clipped.extend(state_dict["clipped"])

    def release(self) -> None:
        self._watched.clear()
        self._pending.clear()
        self._successive.clear()
        self._noise.stop()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        require_whole_gradients(trainer, "GradientMonitor")
        self._layers.clear()
        self._noise.start_run()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.noise_scale and self._logs_at(trainer, logging_step(trainer)):
            self._noise.start_batch(trainer, pl_module, batch)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._noise.end_backward(trainer)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        step, index = logging_step(trainer), trainer.optimizers.index(optimizer)
        if self._logs_at(trainer, step):
            self._watched[index] = self._watch(trainer, pl_module, optimizer, step, index)
        if self.cosine and self._logs_at(trainer, step + 1):
            self._successive.keep(step, index, optimizer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._successive.end_batch()
        if not self._watched:
            return
        step = logging_step(trainer)
        for index, watched in self._watched.items():
            self._pending.append(self._report(trainer, pl_module, watched, step, index))
            log_histograms(trainer, watched.histograms, step)
        self._watched.clear()
        self._noise.stop()
        if len({report.step for report in self._pending}) >= self.logs_per_flush:
            self._flush(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._flush(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._flush(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._flush(trainer)  # what led up to a crash is what one wants to see
        self._draw(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw(trainer)

    def _draw(self, trainer: Trainer) -> None:
        """Log the figure of the layers' norms over depth; with several optimizers each layer has its own anyway."""
        start = f"{self.prefix}grad_norm/"
        norms = [
            {
                key.removeprefix(start): value
                for key, value in record.values.items()
                if key.startswith(start) and key.removeprefix(start).split("/")[0] != "total"
            }
            for record in self.history
        ]
        steps = [record.step for record in self.history]
        if any(norms):
            log_figure(trainer, f"{start}over_depth", lambda: norms_over_depth(steps, norms), steps[-1])

    def _logs_at(self, trainer: Trainer, step: int) -> bool:
        return is_logged(step, self.log_every_n_steps, trainer)

    def _watch(
        self, trainer: Trainer, module: LightningModule, optimizer: Optimizer, step: int, index: int
    ) -> _Watched:
        """Measure, on the device, what is to be known before the step."""
        seen = gradient_pass(trainer, optimizer, self, self.norm_type)
        norms = seen.norms
        watched = _Watched(seen, [Section("grad_norm", norms.total, norms.per_parameter)])
        if self.weight_norm:
            watched.sections.append(norms_of("weight_norm", norms.parameters, self.norm_type))
        if self.update_ratio:
            watched.update = WeightUpdate(norms.parameters)
        if self.cosine:
            watched.sections += self._successive.compare(step, index, norms)
        if self.noise_scale and (sizes := self._noise.batch_sizes(trainer)):
            euclidean = norms if self.norm_type == 2 else gradient_pass(trainer, optimizer, self).norms
            watched.sections += self._noise.sections(trainer, euclidean.total)
            watched.batch_sizes = sizes
        if self.histograms:
            watched.histograms = dict(self._histograms(module, seen))
        return watched

    def _histograms(self, module: LightningModule, seen: GradientPass) -> Iterator[tuple[str, Histogram]]:
        for parameter, gradient in zip(seen.norms.parameters, seen.norms.gradients(), strict=True):
            name, layer = self._layers.name_and_layer(module, parameter)
            found = None
            if layer is not None:
                found = histogram(gradient if seen.loss_scale is None else gradient / seen.loss_scale)
            if found is not None:
                yield f"{self.prefix}grad_histogram/{name}", found

    def _report(self, trainer: Trainer, module: LightningModule, watched: _Watched, step: int, index: int) -> Report:
        """Add what can only be known after the step."""
        sections = [*watched.sections, *norms_after_clipping(trainer, module, watched.seen)]
        if watched.update is not None:
            sections += watched.update.sections(self.norm_type)
        table, keys = self._layers.of(trainer, module, watched.seen.norms.parameters, index)
        return Report(step, table, keys, sections, watched.batch_sizes)

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
        scalars.update(self._noise.scalars(report))
        return scalars

    def _publish(self, trainer: Trainer, totals: Mapping[str, float]) -> None:
        """Put totals where ``EarlyStopping``, sweeps and the progress bar look."""
        publish(trainer, totals)
        if self.progress_bar:
            start = f"{self.prefix}grad_norm/total"
            shown = {key.replace("/total", ""): value for key, value in totals.items() if key.startswith(start)}
            trainer.progress_bar_metrics.update(shown)
