"""Gradient clipping and a guard against non-finite steps, on the norms that the monitor reads too."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from lightning_gradtools._lightning.fail_safe import FailSafe, restore_state
from lightning_gradtools._lightning.flavour import lightnings_classes
from lightning_gradtools._lightning.gradient_pass import forget_passes, gradient_pass, optimizer_parameters
from lightning_gradtools._lightning.loop import (
    callbacks_of,
    is_accumulating,
    is_logged,
    logging_step,
    optimizer_suffix,
    publish,
)
from lightning_gradtools._lightning.module import Patch, patched
from lightning_gradtools._lightning.strategy import require_whole_gradients
from lightning_gradtools.arguments import ArgumentError, described, integer, one_of
from lightning_gradtools.callbacks.gradient_clipping.groups import ClippingGroups
from lightning_gradtools.callbacks.gradient_clipping.methods import (
    Adaptive,
    ClipValue,
    MaxNorm,
    Percentile,
    ZScore,
    chosen,
)
from lightning_gradtools.callbacks.gradient_clipping.nonfinite import NonFiniteGuard
from lightning_gradtools.callbacks.gradient_clipping.statistics import ClippingTally
from lightning_gradtools.gradients.layers import Patterns
from lightning_gradtools.gradients.norm_type import norm_type_of
from lightning_gradtools.reporting.loggers import log_scalars


@dataclass(frozen=True)
class _Run:
    """What there is only while a run goes on."""

    trainer: Trainer
    nonfinite: NonFiniteGuard
    patch: Patch


class GradientClipping(Callback):
    r"""Clips gradients and keeps a NaN or infinity in them from reaching the weights.

    Give one threshold; it chooses the method. ``max_norm`` may stand beside ``percentile`` or ``zscore``: it is
    the limit while these warm up and the largest that they may set later.

    ===============  =============================================================================  ======
    threshold        what it does                                                                   source
    ===============  =============================================================================  ======
    ``max_norm``     scales all gradients by one factor, so that their norm is at most this         [1]
    ``clip_value``   clamps every element to [-clip_value, clip_value]                              torch
    ``adaptive``     AGC: scales the gradient of each row or output channel, so that its norm is    [2]
                     at most this times the norm of its weights; the paper has 0.01
    ``percentile``   AutoClip: as ``max_norm``, the limit being this percentile of the latest       [3]
                     norms, this step's among them; the paper has 10
    ``zscore``       as ``max_norm``, the limit being the median of the norms before this step      [4]
                     plus this many standard deviations, estimated by 1.4826 times the median
                     absolute deviation, which outliers do not move; ZClip has 2.5
    ===============  =============================================================================  ======

    It clips where Lightning does, after every callback's ``on_before_optimizer_step``, so these see the
    gradients unclipped. Under manual optimization it clips inside ``self.optimizers()[i].step()``, unscaled,
    with nothing to call; for a raw torch optimizer (``use_pl_optimizer=False``), which Lightning does not
    see, call :meth:`clip` before its ``step()``.

    On logged steps it logs, under Lightning's own step:

    ========================  =================================================  =============================
    key                       value (unit)                                       when
    ========================  =================================================  =============================
    ``clip/coefficient``      smallest factor on any gradient of the latest      unless ``clip_value``
                              step (1: it was not clipped)
    ``clip/rate``             share of the latest 100 steps that were clipped    unless ``clip_value``
    ``clip/threshold``        limit on the norm of the latest step (infinity     ``percentile`` or ``zscore``
                              during warm-up; with ``overrides`` that of the
                              first group clipped)
    ``clip/skipped_steps``    steps so far whose gradients were not finite       always
    ========================  =================================================  =============================

    With several optimizers every key ends in ``/optimizer_0``, ``/optimizer_1`` and so on. The same is in
    ``trainer.callback_metrics``, for ``EarlyStopping`` and sweeps, and brought up to date before each validation and at
    the end of each epoch. If logging fails, it warns once and training goes on; if clipping fails, the run ends.

    **A skipped step.** Gradients are set to None, so that the optimizer leaves every parameter, its momentum
    and its decay as they are. ``trainer.global_step`` and schedulers that Lightning steps advance all the
    same, one step ahead of the weights. ``WarmupCosineSchedule`` does not, as it counts real steps only,
    unless the verdict stays on the device (below), where it cannot see it. Buffers that the forward pass
    updates (BatchNorm's statistics) are not protected.

    **What it costs to find out.** Nothing where the gradients are on a CPU. On other devices one wait of the
    host per step, as fp16's loss scaler has it; but torch's fused optimizers take the verdict on the device,
    with no wait.

    **What is no fault.** A sum of squares that overflows though every gradient is finite is clipped by its
    norm in float64. Where the verdict stays on the device, or on several ranks under any strategy but DDP, it
    counts as not finite all the same. fp16's loss scaler skips by itself, and infinities are its search for a
    scale: they count only once the scale is down to 1.

    Args:
        max_norm: the largest norm of all gradients of an optimizer, taken as one vector.
        clip_value: the largest magnitude of an element.
        adaptive: the largest ratio of gradient norm to weight norm of a unit: a row of a matrix, an output
            channel of a convolution, a whole bias.
        percentile: above 0, at most 100.
        zscore: robust standard deviations above the median.
        norm_type: 2, 1 or ``"inf"``: the norm that is limited; ``clip_value`` and ``adaptive`` have their
            own.
        exclude: regular expressions; parameters in whose name one is found are neither clipped nor counted in
            a norm (the paper on ``adaptive`` leaves out the last layer).
        overrides: other thresholds for the same method (None: do not clip) by optimizer, ``{1: 0.5}``, or by
            parameter group of it, ``{"0/2": None}``. A group named so is clipped by its own norm, the rest of
            its optimizer together.
        min_weight_norm: floor of a unit's weight norm for ``adaptive``, so that weights which start at 0 can
            move.
        window: latest norms that ``percentile`` and ``zscore`` look back on, 2 to 16777216 (they are sorted every
            step, and ``torch.nanquantile`` takes no more).
        warmup_steps: finite norms to see before these two clip; 25 is ZClip's.
        on_nonfinite: ``"skip"`` the step; ``"raise"`` FloatingPointError; ``"zero"`` all gradients, so that
            momentum and weight decay still move the weights; None does nothing, as Lightning's own clipping.
        max_consecutive_skips: more steps in a row that are not finite stop the run with FloatingPointError.
            Where the verdict stays on the device (see above) that is noticed when next logged, or 100 steps later.
        log_every_n_steps: optimizer steps between two logged ones; None follows the Trainer's.

    Raises:
        ArgumentError: if an argument is none of the above; at fit start, if something else clips as well, if
            an override is for an optimizer or group that is not there, if ``exclude`` is found in no parameter's name
            or in all, if ``clip_value`` is more than the parameters' dtype can hold, or if the strategy keeps whole
            gradients out of a callback's reach (FSDP1, DeepSpeed).
        FloatingPointError: see ``on_nonfinite`` and ``max_consecutive_skips``.

    Attributes:
        method: the name of the threshold that was given.
        threshold: its value.
        guard: through it goes what is logged; its ``failure`` says what went wrong there.

    [1] Pascanu, Mikolov, Bengio 2013, arXiv:1211.5063. [2] Brock et al. 2021, arXiv:2102.06171.
    [3] Seetharaman et al. 2020, arXiv:2007.14469. [4] after Kumar et al. 2025, arXiv:2504.02507.
    """

    def __init__(
        self,
        max_norm: float | None = None,
        *,
        clip_value: float | None = None,
        adaptive: float | None = None,
        percentile: float | None = None,
        zscore: float | None = None,
        norm_type: float | str = 2,
        exclude: Patterns = (),
        overrides: Mapping[int | str, float | None] | None = None,
        min_weight_norm: float = 1e-3,
        window: int = 128,
        warmup_steps: int = 25,
        on_nonfinite: str | None = "skip",
        max_consecutive_skips: int = 10,
        log_every_n_steps: int | None = None,
    ) -> None:
        self._method, self.threshold = chosen(
            {
                MaxNorm(): max_norm,
                ClipValue(): clip_value,
                Adaptive(min_weight_norm): adaptive,
                Percentile(window, warmup_steps, max_norm): percentile,
                ZScore(window, warmup_steps, max_norm): zscore,
            }
        )
        self.method = self._method.name
        self.max_norm = max_norm
        self.norm_type = norm_type_of(norm_type)
        self.exclude = exclude
        self.overrides = _checked_overrides(overrides)
        for key, value in self.overrides.items():
            if value is not None:
                self._method.check(f"overrides[{key!r}]", value)
        self.min_weight_norm = min_weight_norm
        self.window = window
        self.warmup_steps = warmup_steps
        if on_nonfinite is not None:
            one_of("on_nonfinite", on_nonfinite, ("skip", "raise", "zero"))
        self.on_nonfinite = on_nonfinite
        self.max_consecutive_skips = integer("max_consecutive_skips", max_consecutive_skips, at_least=0)
        if log_every_n_steps is not None:
            integer("log_every_n_steps", log_every_n_steps, at_least=1)
        self.log_every_n_steps = log_every_n_steps
        self.guard = FailSafe("GradientClipping's logging")
        self._groups = ClippingGroups(exclude, self.overrides)
        self._tallies: dict[int, ClippingTally] = {}  # by the optimizer's index
        self._run: _Run | None = None

    def __repr__(self) -> str:
        return described(self, overrides=self.overrides or None, **{self.method: self.threshold})

    def __getstate__(self) -> dict[str, Any]:
        # A module that calls `clip` has this callback, and may be copied or saved while it trains; the Trainer cannot.
        return {**self.__dict__, "_run": None}

    def clip(self, optimizer: Optimizer) -> None:
        """Clip the gradients of ``optimizer`` now, or keep the step from happening if they are not finite.

        Called before every step that Lightning takes. Call it yourself, between backward and ``step()``, only
        for a raw torch optimizer that Lightning does not step.

        Raises:
            RuntimeError: outside a fit.
        """
        run = self._run
        if run is None:
            raise RuntimeError("GradientClipping.clip: must be called while a Trainer with this callback fits")
        trainer, optimizer = run.trainer, getattr(optimizer, "optimizer", optimizer)
        index = trainer.optimizers.index(optimizer)
        tally = self._tallies.setdefault(index, ClippingTally())
        seen = gradient_pass(trainer, optimizer, self, self.norm_type)
        if not len(seen.norms.per_parameter) or not run.nonfinite.admits(seen, optimizer, tally):
            return
        method = self._method
        groups = self._groups.of(trainer, optimizer, index, seen.norms.parameters, self.threshold)
        clipped = [method.clip(group, seen, group.threshold) for group in groups if group.threshold is not None]
        tally.take([each for each in clipped if each is not None])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self._let_go()  # a run that ended in another callback's error may not have said so
        forget_passes(trainer)
        self.guard.renew()
        if trainer.global_step == 0:
            self._tallies.clear()
            self._method.load_state_dict({})

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _refuse_other_clipping(trainer, pl_module)
        instead = ", or Trainer(gradient_clip_val=...), which FSDP1 has by value only and DeepSpeed by norm only"
        require_whole_gradients(trainer, "GradientClipping", instead)
        self._groups.start_run(trainer)
        self._check_thresholds(trainer)
        nonfinite = NonFiniteGuard(self.on_nonfinite, self.max_consecutive_skips, trainer)
        self._run = _Run(trainer, nonfinite, self._install(pl_module))

    def _check_thresholds(self, trainer: Trainer) -> None:
        dtypes = {each.dtype for optimizer in trainer.optimizers for each in optimizer_parameters(optimizer)}
        self._method.check(self.method, self.threshold, dtypes)
        for key, threshold in self.overrides.items():
            if threshold is not None:
                self._method.check(f"overrides[{key!r}]", threshold, dtypes)

    def _install(self, pl_module: LightningModule) -> Patch:
        """Clip where Lightning asks the module to, after all callbacks."""
        if pl_module.automatic_optimization:
            return patched(pl_module, "configure_gradient_clipping", lambda _, optimizer, **__: self.clip(optimizer))

        def users_own_and_clip(users_own: Any, optimizer: Optimizer) -> None:
            users_own(optimizer)
            self.clip(optimizer)

        # Lightning does not ask it to clip under manual optimisation; the module's own hook comes last there.
        return patched(pl_module, "on_before_optimizer_step", users_own_and_clip)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._let_go()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._let_go()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._let_go()

    def _let_go(self) -> None:
        if self._run is not None:
            self._run.patch.remove()
            self._run.nonfinite.release()
            self._run = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = logging_step(trainer)
        logs = is_logged(step, self.log_every_n_steps, trainer) and not is_accumulating(trainer)
        for tally in self._tallies.values():
            if logs or tally.is_full:
                tally.read()
                assert self._run is not None
                self._run.nonfinite.stop_if_hopeless(tally)
        if logs:
            self.guard.run(self._log, trainer, step)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._run is not None:
            self.guard.run(self._publish, trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.guard.run(self._publish, trainer)

    def _log(self, trainer: Trainer, step: int) -> None:
        scalars = self._publish(trainer)
        if scalars:
            log_scalars(trainer, scalars, step)

    def _publish(self, trainer: Trainer) -> dict[str, float]:
        scalars = {
            f"clip/{name}{optimizer_suffix(trainer, index)}": value
            for index, tally in self._tallies.items()
            for name, value in tally.scalars().items()
        }
        publish(trainer, scalars)
        return scalars

    def state_dict(self) -> dict[str, Any]:
        return {
            "version": 1,
            "tallies": {str(index): tally.state_dict() for index, tally in self._tallies.items()},
            "histories": self._method.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        readers: dict[str, Callable[[Any], None]] = {
            "tallies": self._load_tallies,
            "histories": self._method.load_state_dict,
        }
        restore_state("GradientClipping", state_dict, readers)

    def _load_tallies(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        self._tallies = {int(index): ClippingTally.load(state) for index, state in states.items()}


def _checked_overrides(overrides: Mapping[int | str, float | None] | None) -> dict[str, float | None]:
    if not isinstance(overrides, Mapping | None):
        raise ArgumentError(
            f"overrides={overrides!r}: must be thresholds by optimizer or parameter group,"
            " such as {1: 0.5} or {'0/2': None}"
        )
    return {str(key): value for key, value in (overrides or {}).items()}


def _refuse_other_clipping(trainer: Trainer, module: LightningModule) -> None:
    """Refuse a run in which something else clips as well.

    Raises:
        ArgumentError: if the Trainer, the module or another callback of this class does.
    """
    if sum(isinstance(callback, GradientClipping) for callback in callbacks_of(trainer)) > 1:
        raise ArgumentError("callbacks: more than one GradientClipping; must be one (see its overrides)")
    if trainer.gradient_clip_val:
        raise ArgumentError(
            f"gradient_clip_val={trainer.gradient_clip_val!r}: must be None with GradientClipping,"
            " which clips instead of the Trainer; remove one of them"
        )
    found: Any = module.configure_gradient_clipping
    while isinstance(found, Patch):
        found = found.__wrapped__
    lightnings = [vars(cls)["configure_gradient_clipping"] for cls in lightnings_classes(module, "LightningModule")]
    if getattr(found, "__func__", None) not in lightnings:
        on = " (it is set on the object)" if "configure_gradient_clipping" in vars(module) else ""
        raise ArgumentError(
            f"{type(module).__name__}.configure_gradient_clipping: must not be overridden with"
            f" GradientClipping, which clips in its place; remove one of them{on}"
        )
