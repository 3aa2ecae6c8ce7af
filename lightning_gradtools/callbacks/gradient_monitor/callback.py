"""Gradient norms of every layer while a network trains, for the price of clipping alone."""

import contextlib
import html
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from lightning_gradtools._lightning import fail_safe
from lightning_gradtools._lightning.fail_safe import Observer, restore_state
from lightning_gradtools._lightning.gradient_pass import gradient_pass
from lightning_gradtools._lightning.loop import is_broken_off, is_logged, logging_step, publish
from lightning_gradtools._lightning.strategy import require_whole_gradients
from lightning_gradtools.arguments import ArgumentError, boolean, integer
from lightning_gradtools.callbacks.gradient_monitor.layer_tables import LayerTables
from lightning_gradtools.callbacks.gradient_monitor.measurements.clipped_norms import ClippedNorms
from lightning_gradtools.callbacks.gradient_monitor.measurements.cosine import GradientCosine
from lightning_gradtools.callbacks.gradient_monitor.measurements.gradient_norm import GradientNorm
from lightning_gradtools.callbacks.gradient_monitor.measurements.histograms import GradientHistograms
from lightning_gradtools.callbacks.gradient_monitor.measurements.measurement import (
    MeasuredStep,
    Measurement,
    Run,
    StepContext,
    overrides,
)
from lightning_gradtools.callbacks.gradient_monitor.measurements.noise_scale import GradientNoise
from lightning_gradtools.callbacks.gradient_monitor.measurements.update_ratio import UpdateRatio
from lightning_gradtools.callbacks.gradient_monitor.measurements.weight_norm import WeightNorm
from lightning_gradtools.callbacks.gradient_monitor.report import (
    GradientRecord,
    Meeting,
    PendingStep,
    bring_to_host,
    run_report,
    scalars_of,
)
from lightning_gradtools.distributed import is_distributed
from lightning_gradtools.gradients.histogram import Histogram
from lightning_gradtools.gradients.layers import LayerGrouping, Patterns
from lightning_gradtools.gradients.norm_type import norm_type_of
from lightning_gradtools.reporting.figures.gradients import norms_over_depth
from lightning_gradtools.reporting.loggers import log_figure, log_histograms, log_scalars
from lightning_gradtools.reporting.tables import gradient_table, layer_keys

Slots = Mapping[str, Tensor]


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

    ``...`` stands for ``total`` and each layer (one called ``total`` or ``over_depth`` has a ``_`` behind that), in the
    order in which the module defines them; of parameters, those count that have a gradient. All but the figure are
    logged on Lightning's own logging steps, or every ``log_every_n_steps``. With several optimizers every scalar's key
    ends in ``/optimizer_0``, ``/optimizer_1`` and so on. If ``GradientClipping`` clips, the ``clip/`` keys are its own.
    ``trainer.callback_metrics`` holds the totals, ``clip/`` and ``grad_noise/``, for ``EarlyStopping`` and sweeps.

    The gradients are read in ``on_before_optimizer_step`` and only on logged steps, in one pass that serves
    every callback of this package. Nothing is changed: weights are the same bit by bit without the monitor.
    If it fails it warns once and disables itself, on all ranks where they meet.

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
            micro-batches of gradient accumulation or the ranks of DDP; says so if there is neither. A step counts only
            if all of its micro-batches on all ranks have the same number of samples. Where that number is not known,
            or the optimizer differentiates the loss several times a step, only the noise scale is lost, with a warning.
        histograms: whether to log histograms of gradients. The host waits for each of them.
        history_size: number of latest records kept in ``history``.
        logs_per_flush: number of logged steps kept on the device before one transfer brings them to the host,
            which has to wait for the device then. ``history``, the progress bar, ``callback_metrics`` and the
            logs lag as much; steps are right all the same.
        prefix: put before every key, to tell several monitors apart.
        measurements: more quantities to log, of your own; see
            :class:`~lightning_gradtools.callbacks.gradient_monitor.measurements.Measurement`. Each belongs to one
            monitor.

    Raises:
        ArgumentError: if an argument is none of the above; at fit start, if the patterns fit no parameter or the
            strategy keeps whole gradients out of a callback's reach (FSDP1, DeepSpeed).

    Attributes:
        history: one :class:`GradientRecord` for each of the latest logged steps, oldest first. It begins anew with
            every run, also one that is resumed.
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
        measurements: Sequence[Measurement] = (),
    ) -> None:
        if log_every_n_steps is not None:
            integer("log_every_n_steps", log_every_n_steps, at_least=1)
        if top_k is not None:
            integer("top_k", top_k, at_least=0)
        if not isinstance(prefix, str):
            raise ArgumentError(f"prefix={prefix!r}: must be a string")
        self.log_every_n_steps = log_every_n_steps
        self.norm_type = norm_type_of(norm_type)
        self.group_by, self.include, self.exclude = group_by, include, exclude
        self.top_k = top_k
        self.progress_bar = boolean("progress_bar", progress_bar)
        self.weight_norm = boolean("weight_norm", weight_norm)
        self.update_ratio = boolean("update_ratio", update_ratio)
        self.cosine = boolean("cosine", cosine)
        self.noise_scale = boolean("noise_scale", noise_scale)
        self.histograms = boolean("histograms", histograms)
        self.history_size = integer("history_size", history_size, at_least=0)
        self.logs_per_flush = integer("logs_per_flush", logs_per_flush, at_least=1)
        self.prefix = prefix
        self.measurements = _checked(measurements)
        self.history: deque[GradientRecord] = deque(maxlen=history_size)
        self._layers = LayerTables(LayerGrouping(group_by, include, exclude), prefix)
        clipped, noise, direction = ClippedNorms(), GradientNoise(), GradientCosine()
        # Whether or not they are among the measured.
        self._with_state: tuple[Measurement, ...] = (noise, clipped, direction)
        optional = [
            (weight_norm, WeightNorm),
            (update_ratio, UpdateRatio),
            (cosine, lambda: direction),
            (noise_scale, lambda: noise),
            (histograms, GradientHistograms),
        ]
        chosen = [make() for wanted, make in optional if wanted]
        self._measured: list[Measurement] = [GradientNorm(), clipped, *chosen, *self.measurements]
        # Those that do anything there: most do nothing, on every batch.
        self._at_batch_start, self._at_backward, self._before_next, self._at_batch_end = (
            [each for each in self._measured if any(overrides(each, method) for method in methods)]
            for methods in (("start_batch",), ("before_backward", "after_backward"), ("before_next",), ("histograms",))
        )
        self._open: dict[
            int, tuple[StepContext, list[Slots | None]]
        ] = {}  # steps of this batch, by the optimizer's index
        self._pending: list[PendingStep] = []
        self._logged: list[tuple[int, int]] = []  # step and optimizer of what the next flush will bring
        self._ranks_meet = False

    @property
    def state_key(self) -> str:
        return f"{type(self).__qualname__}{self.prefix and f'[{self.prefix}]'}"

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {"version": 1}
        for measurement in self._with_state:
            state.update(measurement.state_dict())
        own = {str(i): found for i, each in enumerate(self.measurements) if (found := each.state_dict())}
        return {**state, "measurements": own} if own else state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        readers: dict[str, Callable[[Any], None]] = {}
        for measurement in self._with_state:
            for key in measurement.state_dict():
                readers[key] = partial(_load, measurement, key)
        if any(overrides(each, "state_dict") for each in self.measurements):
            readers["measurements"] = self._load_measurements
        restore_state(type(self).__name__, state_dict, readers, optional=("cosine", "measurements"))

    def _load_measurements(self, states: Mapping[str, Any]) -> None:
        for i, measurement in enumerate(self.measurements):
            if str(i) in states:
                measurement.load_state_dict(states[str(i)])

    def release(self) -> None:
        if self._ranks_meet and self.guard.failed_here is not None and self.guard.failure is None:
            return  # this rank goes on with what the others may wait for, until they know
        self._open.clear()
        self._pending.clear()
        self._logged.clear()
        for measurement in self._measured:
            measurement.release()

    def reset(self) -> None:
        self.history.clear()
        for measurement in {id(each): each for each in (*self._measured, *self._with_state)}.values():
            measurement.reset()

    def take_part(self, hook: str, trainer: Trainer, pl_module: LightningModule) -> None:
        if hook == "on_fit_start":
            self._start_measurements(trainer, pl_module)
        if not self._ranks_meet:
            return
        if hook == "on_before_optimizer_step":
            self._begin_step(trainer, pl_module, trainer.optimizers[0])
        elif hook == "on_train_batch_end" and self._logged:
            self._end_batch(trainer, pl_module)
        elif hook in ("on_validation_start", "on_train_epoch_end", "on_save_checkpoint"):
            self._flush(trainer, alone=is_broken_off(trainer))
        elif hook in ("on_exception", "teardown"):
            self._ranks_meet = False
            self.release()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        require_whole_gradients(trainer, "GradientMonitor")
        self._start_measurements(trainer, pl_module)

    def _start_measurements(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Get ready, and learn whether ranks will reduce anything together in this run."""
        self._layers.start_fit(pl_module)
        run = self._run(trainer, pl_module)
        for measurement in self._measured:
            measurement.start_fit(run)
        self._ranks_meet = trainer.world_size > 1 and (
            any(measurement.shared for measurement in self._measured)
            or any(map(is_distributed, pl_module.parameters()))
        )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._at_batch_start and self._logs_at(trainer, logging_step(trainer)):
            run = self._run(trainer, pl_module)
            for measurement in self._at_batch_start:
                measurement.start_batch(run, batch)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        for measurement in self._at_backward:
            measurement.before_backward(self._run(trainer, pl_module))

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for measurement in self._at_backward:
            measurement.after_backward(self._run(trainer, pl_module))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self._begin_step(trainer, pl_module, optimizer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._logged:
            self._end_batch(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._flush(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._flush(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._logged:  # a run that goes on from here does not make these steps again
            self._flush(trainer, alone=is_broken_off(trainer))
            checkpoint["callbacks"][self.state_key] = self.state_dict()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._flush(trainer, alone=True)  # what led up to a crash is what one wants to see
        self._draw(trainer)
        self.release()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.release()

    def table(self) -> str:
        """Return a table: the layers down, the first, median and last of their logged gradient norms across."""
        steps, values = [record.step for record in self.history], [record.values for record in self.history]
        return "\n".join(gradient_table(steps, values, self.prefix, self._layers.order("grad_norm")))

    def report(self) -> str:
        """Return in a few lines what ``history`` shows: steps, total norm, extreme layers, share of clipped steps."""
        return run_report(self.history, self.prefix)

    def _repr_html_(self) -> str:
        text = "\n".join((self.report(), "", self.table()))
        return f"<code>{html.escape(repr(self))}</code><pre>{html.escape(text.rstrip())}</pre>"

    def _run(self, trainer: Trainer, module: LightningModule) -> Run:
        return Run(trainer=trainer, module=module, guard=self.guard)

    def _logs_at(self, trainer: Trainer, step: int) -> bool:
        return is_logged(step, self.log_every_n_steps, trainer)

    def _begin_step(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        """Measure, on the device, what is to be known before the step."""
        step, index = logging_step(trainer), trainer.optimizers.index(optimizer)
        if self._logs_at(trainer, step):
            if (step, index) not in self._logged:
                self._logged.append((step, index))
            context = StepContext(
                trainer=trainer,
                module=module,
                optimizer=optimizer,
                index=index,
                step=step,
                seen=gradient_pass(trainer, optimizer, self, self.norm_type),
                norm_type=self.norm_type,
                consumer=self,
                tables=self._layers,
            )
            self._open[index] = context, self._each("before_step", lambda each: each.before_step(context))
        if self._before_next and self._logs_at(trainer, step + 1):
            self._each("before_next", lambda each: each.before_next(step, index, optimizer), self._before_next)

    def _end_batch(self, trainer: Trainer, module: LightningModule) -> None:
        """Add what can only be known after the steps of this batch, if it had any that is logged."""
        opened, self._open = self._open, {}
        histograms: dict[str, Histogram] = {}
        for index, (context, slots) in opened.items():
            more = self._each("after_step", partial(_after_step, context))
            layers, keys = self._layers.of(trainer, module, context.norms.parameters, index)
            measured = MeasuredStep(step=context.step, layers=layers, norm_type=self.norm_type)
            both = [{**(before or {}), **(after or {})} for before, after in zip(slots, more, strict=True)]
            self._pending.append(PendingStep(index=index, measured=measured, keys=keys, slots=both))
        for measurement in self._at_batch_end:
            histograms.update((self.prefix + key, found) for key, found in measurement.histograms().items())
        step = self._logged[-1][0]
        if len({step for step, _ in self._logged}) >= self.logs_per_flush:
            self._flush(trainer)
        if histograms and not self.guard.is_off:
            log_histograms(trainer, histograms, step)

    def _each(
        self, what: str, ask: Callable[[Measurement], Slots | None], measured: Sequence[Measurement] | None = None
    ) -> list[Slots | None]:
        """Ask every measurement, and return the answers.

        Where ranks wait for each other, the others are asked also after one has failed, and so until the ranks meet.
        One that failed is asked again, as other ranks may be waiting for its part.
        """
        found: list[Slots | None] = []
        for measurement in self._measured if measured is None else measured:
            where, whole = f"{type(measurement).__name__}.{what}", fail_safe.Whole(ask)
            try:
                found.append(fail_safe.attempt(self.guard.name, where, whole, measurement))
            except Exception as error:
                if not self._ranks_meet:
                    raise
                found.append(None)
                if not self.guard.is_off:
                    self.guard.fail(where, error)
                if not whole.done:
                    with contextlib.suppress(Exception):  # it was told of already
                        ask(measurement)
        return found

    def _flush(self, trainer: Trainer, alone: bool = False) -> None:
        """Bring what is pending to the host in one transfer, and log it. ``alone``: other ranks may not be here."""
        if not self._logged:
            return
        pending, self._pending = self._pending, []
        logged, self._logged = self._logged, []
        meeting = None
        if self._ranks_meet and not alone:
            meeting = Meeting(trainer.strategy.root_device, logged, self.guard.is_off)
        arrived = bring_to_host(pending, self._measured, meeting)
        self.guard.agree(arrived.anyone_failed)
        if self.guard.is_off:  # what has arrived may lack the part of a rank
            self.release()
            return
        records: dict[int, dict[str, float]] = {}
        latest: dict[str, float] = {}
        for step, found in zip(pending, arrived.found, strict=True):
            scalars = scalars_of(step, found, self._measured, self.top_k)
            records.setdefault(step.measured.step, {}).update({**scalars.totals, **scalars.layers})
            latest.update(scalars.totals)
        self._publish(trainer, latest)
        for number, values in records.items():
            self.history.append(GradientRecord(number, values))
            log_scalars(trainer, values, number)

    def _publish(self, trainer: Trainer, totals: Mapping[str, float]) -> None:
        """Put totals where ``EarlyStopping``, sweeps and the progress bar look."""
        publish(trainer, totals)
        if self.progress_bar:
            start = f"{self.prefix}grad_norm/total"
            shown = {key.replace("/total", ""): value for key, value in totals.items() if key.startswith(start)}
            trainer.progress_bar_metrics.update(shown)

    def _draw(self, trainer: Trainer) -> None:
        """Log the figure of the layers' norms over depth; with several optimizers each layer has its own anyway."""
        start = f"{self.prefix}grad_norm/"
        records = [record.values for record in self.history]
        keys = layer_keys(records, start, self._layers.order("grad_norm"))
        if not keys:
            return
        norms = [{key.removeprefix(start): record[key] for key in keys if key in record} for record in records]
        steps, layers = [record.step for record in self.history], [key.removeprefix(start) for key in keys]
        log_figure(trainer, f"{start}over_depth", lambda: norms_over_depth(steps, norms, layers), steps[-1])


def _checked(measurements: Sequence[Measurement]) -> tuple[Measurement, ...]:
    if not isinstance(measurements, Sequence) or not all(isinstance(each, Measurement) for each in measurements):
        raise ArgumentError(f"measurements={measurements!r}: must be a list of Measurement")
    return tuple(measurements)


def _load(measurement: Measurement, key: str, entry: Any) -> None:
    measurement.load_state_dict({key: entry})


def _after_step(context: StepContext, measurement: Measurement) -> Slots:
    return measurement.after_step(context)
