"""Gradient clipping and a guard against non-finite steps, on the norms that the monitor reads too."""

from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from lightning_gradtools._lightning.gradient_pass import GradientPass, gradient_pass
from lightning_gradtools._lightning.loop import is_accumulating, is_logged, logging_step, optimizer_suffix
from lightning_gradtools._lightning.strategy import require_whole_gradients
from lightning_gradtools.arguments import ArgumentError, integer, number, one_of
from lightning_gradtools.callbacks.gradient_clipping.groups import ClippingUnits, Unit
from lightning_gradtools.callbacks.gradient_clipping.installation import install, refuse_other_clipping
from lightning_gradtools.callbacks.gradient_clipping.methods import checked_threshold, chosen_method
from lightning_gradtools.callbacks.gradient_clipping.moving_limits import MovingLimits
from lightning_gradtools.callbacks.gradient_clipping.nonfinite import NonFiniteGuard
from lightning_gradtools.callbacks.gradient_clipping.statistics import Clipped, ClippingTally
from lightning_gradtools.gradients.adaptive_clipping import adaptive_clip_
from lightning_gradtools.gradients.clipping import clip_by_value_, clip_coefficient
from lightning_gradtools.gradients.layers import Patterns
from lightning_gradtools.gradients.norm_type import norm_type_of
from lightning_gradtools.reporting.loggers import log_scalars


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

    With several optimizers every key ends in ``/optimizer_0``, ``/optimizer_1`` and so on.

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
        window: latest norms that ``percentile`` and ``zscore`` look back on.
        warmup_steps: finite norms to see before these two clip; 25 is ZClip's.
        on_nonfinite: ``"skip"`` the step; ``"raise"`` FloatingPointError; ``"zero"`` all gradients, so that
            momentum and weight decay still move the weights; None does nothing, as Lightning's own clipping.
        max_consecutive_skips: more steps in a row that are not finite stop the run with FloatingPointError.
            Where the verdict stays on the device (see above) that is noticed when next logged.
        log_every_n_steps: optimizer steps between two logged ones; None follows the Trainer's.

    Raises:
        ArgumentError: if an argument is none of the above; at fit start, if something else clips as well, if
            an override is for an optimizer or group that is not there, or if the strategy keeps whole
            gradients out of a callback's reach (FSDP1, DeepSpeed).
        FloatingPointError: see ``on_nonfinite`` and ``max_consecutive_skips``.

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
        self.method, self.threshold = chosen_method(
            max_norm=max_norm, clip_value=clip_value, adaptive=adaptive, percentile=percentile, zscore=zscore
        )
        self.max_norm = max_norm
        self.norm_type = norm_type_of(norm_type)
        self.overrides = {str(key): value for key, value in (overrides or {}).items()}
        for key, value in self.overrides.items():
            if value is not None:
                checked_threshold(f"overrides[{key!r}]", value, self.method)
        self.min_weight_norm = number("min_weight_norm", min_weight_norm, above=0)
        self.window = integer("window", window, at_least=2)
        self.warmup_steps = integer("warmup_steps", warmup_steps, at_least=1, at_most=window)
        if on_nonfinite is not None:
            one_of("on_nonfinite", on_nonfinite, ("skip", "raise", "zero"))
        self.on_nonfinite = on_nonfinite
        self.max_consecutive_skips = integer("max_consecutive_skips", max_consecutive_skips, at_least=0)
        if log_every_n_steps is not None:
            integer("log_every_n_steps", log_every_n_steps, at_least=1)
        self.log_every_n_steps = log_every_n_steps
        self._units = ClippingUnits(exclude, self.overrides)
        self._limits = MovingLimits(self.window, self.warmup_steps)
        self._tallies: dict[int, ClippingTally] = {}  # by the optimizer's index
        self._trainer: Trainer | None = None
        self._guard: NonFiniteGuard | None = None
        self._uninstall: Callable[[], None] | None = None

    def clip(self, optimizer: Optimizer) -> None:
        """Clip the gradients of ``optimizer`` now, or keep the step from happening if they are not finite.

        Called before every step that Lightning takes. Call it yourself, between backward and ``step()``, only
        for a raw torch optimizer that Lightning does not step.
        """
        assert self._trainer is not None
        assert self._guard is not None
        trainer, optimizer = self._trainer, getattr(optimizer, "optimizer", optimizer)
        index = trainer.optimizers.index(optimizer)
        tally = self._tallies.setdefault(index, ClippingTally())
        seen = gradient_pass(trainer, optimizer, self, self.norm_type)
        if not len(seen.norms.per_parameter) or not self._guard.admits(seen, optimizer, tally):
            return
        units = self._units.of(trainer, optimizer, index, seen.norms.parameters, self.threshold)
        clipped = [self._clip_unit(seen, unit, unit.threshold) for unit in units if unit.threshold is not None]
        tally.take([each for each in clipped if each is not None])

    def _clip_unit(self, seen: GradientPass, unit: Unit, threshold: float) -> Clipped | None:
        """Clip what ``unit`` names, and return how, if there is a factor to it."""
        if self.method == "clip_value":
            with unit.rewriting(seen) as parameters:
                clip_by_value_(parameters, threshold)
            return None
        if self.method == "adaptive":
            with unit.rewriting(seen) as parameters:
                return Clipped(adaptive_clip_(parameters, threshold, self.min_weight_norm))
        norm, limit = unit.norm(seen), None
        if self.method != "max_norm":
            limit = self._limits.limit(self.method, unit.name, norm, threshold, self.max_norm)
        coefficient = clip_coefficient(norm, threshold if limit is None else limit)
        unit.scale_(seen, coefficient)
        return Clipped(coefficient, limit)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        refuse_other_clipping(trainer, pl_module)
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if sum(isinstance(callback, GradientClipping) for callback in callbacks) > 1:
            raise ArgumentError("callbacks: more than one GradientClipping; must be one (see its overrides)")
        instead = ", or Trainer(gradient_clip_val=...), which FSDP1 has by value only and DeepSpeed by norm only"
        require_whole_gradients(trainer, "GradientClipping", instead)
        self._units.start_run(trainer)
        self._trainer = trainer
        self._guard = NonFiniteGuard(self.on_nonfinite, self.max_consecutive_skips, trainer)
        self._uninstall = install(pl_module, self.clip)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._let_go()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._let_go()

    def _let_go(self) -> None:
        if self._uninstall is not None:
            self._uninstall()
        self._trainer = self._guard = self._uninstall = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = logging_step(trainer)
        assert self._guard is not None
        logs = is_logged(step, self.log_every_n_steps, trainer) and not is_accumulating(trainer)
        scalars: dict[str, float] = {}
        for index, tally in self._tallies.items():
            if not logs and not tally.is_full:
                continue
            tally.read()
            self._guard.stop_if_hopeless(tally)
            if logs:
                suffix = optimizer_suffix(trainer, index)
                scalars.update({f"clip/{name}{suffix}": value for name, value in tally.scalars().items()})
        if scalars:
            log_scalars(trainer, scalars, step)

    def state_dict(self) -> dict[str, Any]:
        return {
            "tallies": {str(index): tally.state_dict() for index, tally in self._tallies.items()},
            "histories": self._limits.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._tallies = {int(index): ClippingTally.load(state) for index, state in state_dict["tallies"].items()}
        self._limits.load_state_dict(state_dict["histories"])
