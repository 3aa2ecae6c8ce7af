"""Gradient clipping and a guard against non-finite steps, on the norms that the monitor reads too."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

from lightning_gradtools.arguments import ArgumentError, integer, number, one_of
from lightning_gradtools.callbacks.bulk_logging import lightning_step, log_scalars
from lightning_gradtools.callbacks.clipping_tally import Clipped, ClippingTally
from lightning_gradtools.callbacks.gradient_pass import (
    GradientPass,
    gradient_pass,
    optimizer_parameters,
    parameter_names,
)
from lightning_gradtools.callbacks.layers import Patterns, compiled, matches
from lightning_gradtools.callbacks.norm_type import norm_type_of
from lightning_gradtools.callbacks.observer import logs_at
from lightning_gradtools.distributed import any_rank
from lightning_gradtools.gradients.adaptive_clipping import adaptive_clip_
from lightning_gradtools.gradients.clipping import clip_by_value_, clip_coefficient, scale_
from lightning_gradtools.gradients.norm_history import NormHistory
from lightning_gradtools.gradients.norms import GradientNorms, find_nonfinite, tensor_norms, total_norm


class GradientClipping(Callback):
    r"""Clips gradients and keeps a NaN or infinity in them from reaching the weights.

    Give one threshold; it chooses the method. ``max_norm`` may stand beside ``percentile`` or ``zscore``, as
    an upper limit to what these find and the limit while they warm up.

    ===============  =============================================================================  ======
    threshold        what it does                                                                   source
    ===============  =============================================================================  ======
    ``max_norm``     scales all gradients so that their norm is at most this                        [1]
    ``clip_value``   clamps every element to [-clip_value, clip_value]                              torch
    ``adaptive``     AGC: scales each unit's gradient to at most this times the norm of its         [2]
                     weights, which count as ``min_weight_norm`` at least; 0.01 is the paper's
    ``percentile``   AutoClip: the limit is this percentile of the norms so far; 10 is the paper's  [3]
    ``zscore``       the limit is the median of the norms before plus this many robust standard     [4]
                     deviations (1.4826 MAD), which no NaN or outlier moves; 2.5 is ZClip's
    ===============  =============================================================================  ======

    It clips where Lightning does, after every callback's ``on_before_optimizer_step``, so these see the
    gradients unclipped. Under manual optimization it clips inside ``self.optimizers()[i].step()``, unscaled,
    with nothing to call; for a raw torch optimizer (``use_pl_optimizer=False``), which Lightning does not
    see, call :meth:`clip` before its ``step()``.

    ========================  =======================================================  ======================
    key                       value (unit)                                             when
    ========================  =======================================================  ======================
    ``clip/coefficient``      smallest factor on any gradient (1: not clipped)         logged steps, unless
                                                                                       by value
    ``clip/rate``             share of the last 100 steps that were clipped            the same
    ``clip/threshold``        the limit on the norm                                    by percentile or zscore
    ``clip/skipped_steps``    steps so far that were not finite                        logged steps
    ========================  =======================================================  ======================

    With several optimizers every key ends in ``/optimizer_0``, ``/optimizer_1`` and so on.

    A skipped step: gradients are set to None, so that the optimizer leaves every parameter, its momentum and
    its decay as they are. ``trainer.global_step`` and the schedule advance as Lightning counts them, one step
    ahead of the weights. Buffers that the forward pass updates (BatchNorm's statistics) are not protected.
    Finding out costs nothing where the gradients are on a CPU, and one wait of the host per step on other
    devices, as fp16's loss scaler has it; torch's fused optimizers take the verdict on the device, with no
    wait. A sum of squares that overflows though every gradient is finite is clipped by its norm in float64.
    fp16's loss scaler skips by itself, and infinities are its search for a scale: they count only once the
    scale is down to 1.

    Args:
        max_norm: the largest norm of all gradients of an optimizer, taken as one vector.
        clip_value: the largest magnitude of an element.
        adaptive: the largest ratio of gradient norm to weight norm of a unit (a row, an output channel).
        percentile: from 0 to 100.
        zscore: standard deviations above the median.
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
        max_consecutive_skips: more steps in a row than this stop the run with FloatingPointError. Where the
            verdict stays on the device (see above) that is noticed when next logged.
        log_every_n_steps: optimizer steps between two logged ones; None follows the Trainer's.

    Raises:
        ArgumentError: if an argument is none of the above; at fit start, if something else clips as well, or
            if the strategy keeps gradients where a callback cannot clip them.

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
        self.method, self.threshold = _method(
            max_norm=max_norm, clip_value=clip_value, adaptive=adaptive, percentile=percentile, zscore=zscore
        )
        self.max_norm = max_norm
        self.norm_type = norm_type_of(norm_type)
        self.overrides = {str(key): value for key, value in (overrides or {}).items()}
        for key, value in self.overrides.items():
            if value is not None:
                _threshold(f"overrides[{key!r}]", value, self.method)
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
        self._exclude = compiled("exclude", exclude)
        self._trainer: Trainer | None = None
        self._excluded: dict[int, bool] = {}
        self._tallies: dict[int, ClippingTally] = {}  # by the optimizer's index
        self._histories: dict[str, NormHistory] = {}  # by optimizer, or "optimizer/group" where that is overridden
        self._ranks_may_differ = False

    def clip(self, optimizer: Optimizer) -> None:
        """Clip the gradients of ``optimizer`` now, or keep the step from happening if they are not finite.

        Called before every step that Lightning takes. Call it yourself, between backward and ``step()``, only
        for a raw torch optimizer that Lightning does not step.
        """
        assert self._trainer is not None
        trainer, optimizer = self._trainer, getattr(optimizer, "optimizer", optimizer)
        index = trainer.optimizers.index(optimizer)
        tally = self._tallies.setdefault(index, ClippingTally())
        seen = gradient_pass(trainer, optimizer, self, self.norm_type)
        if not len(seen.norms.per_parameter) or not self._is_sound(seen, optimizer, tally):
            return
        coefficients = [self._clip_unit(seen, unit) for unit in self._units(seen.norms.parameters, optimizer, index)]
        tally.take([each for each in coefficients if each is not None])

    def _clip_unit(self, seen: GradientPass, unit: "_Unit") -> Clipped | None:
        """Clip what ``unit`` names, and return how."""
        norms, threshold, members = seen.norms, unit.threshold, unit.members
        if threshold is None:
            return None
        parameters = norms.parameters if members is None else [norms.parameters[i] for i in members]
        if self.method in ("clip_value", "adaptive"):
            return self._rewrite(seen, parameters, threshold)
        total = norms.total if members is None else total_norm(norms.per_parameter[members], self.norm_type)
        limit = None
        if self.method in ("percentile", "zscore"):
            limit = self._limit(unit.name, total, threshold)
        coefficient = clip_coefficient(total, threshold if limit is None else limit)
        # Where reading costs nothing, a step that needs no clipping is spared the multiplication by 1.
        if not _is_free_to_read(coefficient) or coefficient.item() < 1:
            if members is None:
                scale_(norms.gradients(), coefficient, norms.plain)
            else:
                scale_([each.grad for each in parameters if each.grad is not None], coefficient)
        if members is None:
            seen.factors = coefficient
        else:
            if seen.factors is None:
                seen.factors = torch.ones_like(norms.per_parameter)
            seen.factors[members] = coefficient.to(seen.factors.dtype)
        return Clipped(coefficient, limit)

    def _rewrite(self, seen: GradientPass, parameters: Sequence[Tensor], threshold: float) -> Clipped | None:
        """Clip in a way that is not one factor per parameter."""
        seen.rewritten = True
        scale = seen.loss_scale
        if scale is not None:
            scale_([each.grad for each in parameters if each.grad is not None], 1 / scale)
        coefficient = None
        if self.method == "clip_value":
            clip_by_value_(parameters, threshold)
        else:
            coefficient = adaptive_clip_(parameters, threshold, self.min_weight_norm)
        if scale is not None:
            # The scaler looks for infinities only in the step, after this: a clamp must not hide them.
            scale = torch.where(seen.norms.total.isfinite(), scale, math.nan)
            scale_([each.grad for each in parameters if each.grad is not None], scale)
        return None if coefficient is None else Clipped(coefficient, None)

    def _limit(self, name: str, total: Tensor, threshold: float) -> Tensor:
        """Return the limit that the norms so far set, and remember ``total``."""
        history = self._histories.setdefault(name, NormHistory(self.window, self.warmup_steps))
        if self.method == "percentile":
            history.add(total)
            limit = history.percentile(threshold)
        else:
            limit = history.robust_bound(threshold)
            history.add(total)
        return limit if self.max_norm is None else limit.clamp(max=self.max_norm)

    def _units(self, parameters: Sequence[Tensor], optimizer: Optimizer, index: int) -> list["_Unit"]:
        """Return what is clipped together."""
        default = self.overrides.get(str(index), self.threshold)
        own = {
            group: self.overrides[f"{index}/{group}"]
            for group in range(len(optimizer.param_groups))
            if f"{index}/{group}" in self.overrides
        }
        if not own and not self._exclude:
            return [_Unit(str(index), default, None)]
        group_of = {
            id(parameter): group
            for group, settings in enumerate(optimizer.param_groups)
            if group in own
            for parameter in settings["params"]
        }
        units: dict[int | None, _Unit] = {}
        for position, parameter in enumerate(parameters):
            if not self._is_excluded(parameter):
                group = group_of.get(id(parameter))
                name = str(index) if group is None else f"{index}/{group}"
                threshold = default if group is None else own[group]
                members = units.setdefault(group, _Unit(name, threshold, [])).members
                assert members is not None
                members.append(position)
        return list(units.values())

    def _is_excluded(self, parameter: Tensor) -> bool:
        if not self._exclude:
            return False
        if id(parameter) not in self._excluded:
            assert self._trainer is not None
            name = parameter_names(self._trainer.lightning_module).get(id(parameter), "")
            self._excluded[id(parameter)] = matches(name, self._exclude)
        return self._excluded[id(parameter)]

    # --- steps that are not finite
    # -----------------------------------------------------------------------------

    def _is_sound(self, seen: GradientPass, optimizer: Optimizer, tally: ClippingTally) -> bool:
        """Say whether to clip and take this step; if not, its gradients are dealt with already."""
        if self.on_nonfinite is None:
            return True
        total, scale = seen.norms.total, seen.judged_at_scale
        if scale is not None:
            # The scaler skips it. A scale above 1 is still its search; at 1 the gradients are at fault.
            fault = ~total.isfinite() & (scale.to(total.device) <= 1)
            tally.verdicts.append((self._global_step, fault))
            return True
        if self.on_nonfinite == "skip" and not _is_free_to_read(total) and _takes_verdict(optimizer):
            verdict = any_rank(~total.isfinite()) > 0 if self._ranks_may_differ else ~total.isfinite()
            tally.verdicts.append((self._global_step, verdict))
            _skip_on_device(optimizer, verdict)
            return True
        sound = math.isfinite(total.item()) if not self._ranks_may_differ else not any_rank(~total.isfinite()).item()
        if sound:
            tally.took(self._global_step)
            return True
        gradients = seen.norms.gradients()
        found = find_nonfinite(gradients)
        if found.overflow and not self._ranks_may_differ:
            per_parameter = tensor_norms(gradients, self.norm_type, torch.float64)
            seen.norms = GradientNorms(
                seen.norms.parameters,
                per_parameter,
                total_norm(per_parameter, self.norm_type),
                self.norm_type,
            )
            return True
        self._reject(seen, optimizer, tally, found.nan + found.inf)
        return False

    def _reject(self, seen: GradientPass, optimizer: Optimizer, tally: ClippingTally, faulty: tuple[int, ...]) -> None:
        assert self._trainer is not None
        names = parameter_names(self._trainer.lightning_module)
        where = [names.get(id(seen.norms.parameters[position]), "?") for position in faulty]
        listed = ", ".join(where[:3]) + (f" and {len(where) - 3} more" if len(where) > 3 else "")
        what = f"gradients are not finite at global step {self._global_step}: {listed or 'on another rank'}"
        if self.on_nonfinite == "raise":
            raise FloatingPointError(f"{what}; {tally.last_good()}")
        tally.missed()
        self._stop_if_hopeless(tally, what)
        if tally.skipped_steps == 1:
            done = "skipped" if self.on_nonfinite == "skip" else "taken with zero gradients"
            rank_zero_warn(f"GradientClipping: {what}. The step is {done}; later ones are counted, not announced.")
        for parameter in optimizer_parameters(optimizer):
            if self.on_nonfinite == "skip":
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad = torch.zeros_like(parameter.grad)

    def _stop_if_hopeless(self, tally: ClippingTally, what: str) -> None:
        if tally.consecutive_skips > self.max_consecutive_skips:
            raise FloatingPointError(
                f"{what}; {tally.consecutive_skips} steps in a row"
                f" (max_consecutive_skips={self.max_consecutive_skips}), {tally.last_good()}"
            )

    @property
    def _global_step(self) -> int:
        assert self._trainer is not None
        return self._trainer.global_step

    # --- Lightning
    # ---------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._refuse_what_cannot_work(trainer, pl_module)
        self._trainer = trainer
        self._excluded.clear()
        # Under DDP all ranks hold the very same gradients; elsewhere a gradient may belong to one rank.
        self._ranks_may_differ = trainer.world_size > 1 and not isinstance(trainer.strategy, DDPStrategy)
        self._shadow(pl_module)

    def _refuse_what_cannot_work(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.gradient_clip_val:
            raise ArgumentError(
                f"gradient_clip_val={trainer.gradient_clip_val!r}: must be None with GradientClipping,"
                " which clips instead of the Trainer; remove one of them"
            )
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if sum(isinstance(callback, GradientClipping) for callback in callbacks) > 1:
            raise ArgumentError("callbacks: more than one GradientClipping; must be one (see its overrides)")
        if type(module).configure_gradient_clipping is not LightningModule.configure_gradient_clipping:
            raise ArgumentError(
                f"{type(module).__name__}.configure_gradient_clipping: must not be overridden with"
                " GradientClipping, which clips in its place; remove one of them"
            )
        if isinstance(trainer.strategy, (DeepSpeedStrategy, FSDPStrategy)):
            raise ArgumentError(
                f"strategy={type(trainer.strategy).__name__}: keeps gradients out of a callback's reach; use"
                " Trainer(gradient_clip_val=...), or ModelParallelStrategy (FSDP2) with GradientClipping"
            )
        groups = {
            f"{index}/{group}"
            for index, optimizer in enumerate(trainer.optimizers)
            for group in range(len(optimizer.param_groups))
        }
        known = [str(index) for index in range(len(trainer.optimizers))] + sorted(groups)
        for key in self.overrides:
            one_of("overrides", key, known)

    def _shadow(self, module: LightningModule) -> None:
        """Put :meth:`clip` where Lightning asks the module to clip, after all callbacks.

        Lightning does not ask under manual optimisation; the module's own hook comes last there. A plain
        function, because a copy of the module (weight averaging makes one) copies anything else together with
        the Trainer.
        """
        automatic = module.automatic_optimization
        name = "configure_gradient_clipping" if automatic else "on_before_optimizer_step"
        before = getattr(module, name)

        def clip(optimizer: Optimizer, **_trainers_settings: Any) -> None:
            if not automatic:
                before(optimizer)
            self.clip(optimizer)

        module.__dict__[name] = clip
        self._shadowed = name

    def _restore(self, module: LightningModule) -> None:
        if self._trainer is not None:
            module.__dict__.pop(self._shadowed, None)
            self._trainer = None

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore(pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = lightning_step(trainer)
        logs = logs_at(step, self.log_every_n_steps, trainer) and not trainer.fit_loop._should_accumulate()
        scalars: dict[str, float] = {}
        for index, tally in self._tallies.items():
            if not logs and not tally.is_full:
                continue
            tally.read()
            self._stop_if_hopeless(tally, "gradients are not finite")
            if logs:
                suffix = f"/optimizer_{index}" if len(trainer.optimizers) > 1 else ""
                scalars.update({f"clip/{name}{suffix}": value for name, value in tally.scalars().items()})
        if scalars:
            log_scalars(trainer, scalars, step)

    def state_dict(self) -> dict[str, Any]:
        return {
            "tallies": {str(index): tally.state_dict() for index, tally in self._tallies.items()},
            "histories": {name: history.tolist() for name, history in self._histories.items()},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._tallies = {int(index): ClippingTally.load(state) for index, state in state_dict["tallies"].items()}
        self._histories = {
            name: NormHistory(self.window, self.warmup_steps, norms) for name, norms in state_dict["histories"].items()
        }


def _method(**thresholds: float | None) -> tuple[str, float]:
    """Return the one method that a threshold was given for, and the threshold."""
    given = {name: value for name, value in thresholds.items() if value is not None}
    if len(given) == 2 and "max_norm" in given and given.keys() & {"percentile", "zscore"}:
        _threshold("max_norm", given.pop("max_norm"), "max_norm")
    if len(given) != 1:
        found = ", ".join(f"{name}={value!r}" for name, value in given.items()) or "none"
        raise ArgumentError(f"GradientClipping: give one of {', '.join(thresholds)}; got {found}")
    name, value = next(iter(given.items()))
    return name, _threshold(name, value, name)


def _threshold(name: str, value: float, method: str) -> float:
    return number(name, value, above=0, at_most=100 if method == "percentile" else None)


def _is_free_to_read(tensor: Tensor) -> bool:
    """Say whether the host may read ``tensor`` without waiting for a device."""
    return tensor.device.type == "cpu"


def _takes_verdict(optimizer: Optimizer) -> bool:
    """Say whether ``optimizer`` leaves everything as it is, on the device, if its ``found_inf`` is 1.

    The fused kernels of torch do: it is how they work with a loss scaler. Other optimizers that unscale by
    themselves have protocols of their own.
    """
    fused = getattr(optimizer, "_step_supports_amp_scaling", False)
    return fused and isinstance(optimizer, (Adam, AdamW, SGD, Adagrad))


def _skip_on_device(optimizer: Optimizer, verdict: Tensor) -> None:
    """Make the next step of ``optimizer``, and only that one, obey ``verdict``."""

    def forget(stepped: Optimizer, *_arguments: Any) -> None:
        del stepped.found_inf  # type: ignore[attr-defined]
        handle.remove()

    optimizer.found_inf = verdict.float()  # type: ignore[attr-defined]
    handle = optimizer.register_step_post_hook(forget)


@dataclass(frozen=True)
class _Unit:
    """Parameters that are clipped together.

    Attributes:
        name: "optimizer", or "optimizer/group".
        threshold: the limit, or None to leave them as they are.
        members: positions among the parameters that have a gradient; None for all.
    """

    name: str
    threshold: float | None
    members: list[int] | None
