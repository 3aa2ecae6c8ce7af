"""Gradient clipping and a guard against non-finite steps, on the norms that the monitor reads too."""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from lightning_gradtools.arguments import ArgumentError, integer, number, one_of
from lightning_gradtools.callbacks.bulk_logging import lightning_step, log_scalars
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
from lightning_gradtools.gradients.clipping import clip_by_value_, clip_coefficient, scale_
from lightning_gradtools.gradients.norms import (
    GradientNorms,
    find_nonfinite,
    tensor_norms,
    total_norm,
)

_RATE_WINDOW = 100  # steps over which the clip rate runs


class GradientClipping(Callback):
    r"""Clips gradients and keeps a NaN or infinity in them from reaching the weights.

    Give exactly one of the thresholds; it chooses the method.

    ===============  ================================================================  ======
    threshold        what it does                                                      source
    ===============  ================================================================  ======
    ``max_norm``     scales all gradients so that their norm is at most this           [1]
    ``clip_value``   clamps every element to [-clip_value, clip_value]                 torch
    ===============  ================================================================  ======

    It clips where Lightning does, after every callback's ``on_before_optimizer_step``, so these see the
    gradients unclipped. Under manual optimisation it clips inside ``self.optimizers()[i].step()``, unscaled,
    with nothing to call; for a raw torch optimizer (``use_pl_optimizer=False``), which Lightning does not
    see, call :meth:`clip` before its ``step()``.

    ========================  ===================================================  ==========================
    key                       value (unit)                                         when
    ========================  ===================================================  ==========================
    ``clip/coefficient``      factor on the gradients (1: not clipped)             every logged step, by norm
    ``clip/rate``             share of the last 100 steps that were clipped        every logged step, by norm
    ``clip/skipped_steps``    steps so far whose gradients were not finite         every logged step
    ========================  ===================================================  ==========================

    With several optimizers every key ends in ``/optimizer_0``, ``/optimizer_1`` and so on.

    A skipped step: gradients are set to None, so that the optimizer leaves every parameter, its momentum and
    its decay as they are. ``trainer.global_step`` and the schedule advance as Lightning counts them, one step
    ahead of the weights. Buffers that the forward pass updates (BatchNorm's statistics) are not protected.
    Finding out costs nothing where the gradients are on a CPU, and one wait of the host per step on other
    devices, as fp16's loss scaler has it; fused optimizers of torch take the verdict on the device, with no
    wait. While a loss scaler of fp16 is at work it skips by itself, and infinities are its search for a
    scale: they count as a fault only once the scale is down to 1.

    Args:
        max_norm: the largest norm of all gradients of an optimizer, taken as one vector.
        clip_value: the largest magnitude of an element.
        norm_type: 2, 1 or ``"inf"``: the norm that ``max_norm`` bounds.
        exclude: regular expressions; parameters in whose name one is found are neither clipped nor counted in
        a norm. overrides: other thresholds (None: do not clip) by optimizer, ``{1: 0.5}``, or by parameter
            group of it, ``{"0/2": None}``. A group named so is clipped by its own norm, the rest of its
        optimizer together. on_nonfinite: ``"skip"`` the step; ``"raise"`` FloatingPointError; ``"zero"`` all
            gradients, so that momentum and weight decay still move the weights; None does nothing, as
        Lightning's own clipping. max_consecutive_skips: more steps in a row than this (skipped or zeroed)
        stop the run with FloatingPointError. log_every_n_steps: optimizer steps between two logged ones; None
        follows the Trainer's ``log_every_n_steps``.

    Raises:
        ArgumentError: if an argument is none of the above; at fit start, if something else clips as well, or
            if the strategy keeps gradients where they cannot be clipped by a callback.

    [1] Pascanu, Mikolov, Bengio 2013, arXiv:1211.5063.
    """

    def __init__(
        self,
        max_norm: float | None = None,
        *,
        clip_value: float | None = None,
        norm_type: float | str = 2,
        exclude: Patterns = (),
        overrides: Mapping[int | str, float | None] | None = None,
        on_nonfinite: str | None = "skip",
        max_consecutive_skips: int = 10,
        log_every_n_steps: int | None = None,
    ) -> None:
        thresholds = {"max_norm": max_norm, "clip_value": clip_value}
        given = {name: value for name, value in thresholds.items() if value is not None}
        if len(given) != 1:
            found = ", ".join(f"{name}={value!r}" for name, value in given.items()) or "none"
            raise ArgumentError(f"GradientClipping: give exactly one of {', '.join(thresholds)}; got {found}")
        self.method, threshold = next(iter(given.items()))
        self.threshold = number(self.method, threshold, above=0)
        self.norm_type = norm_type_of(norm_type)
        self.overrides = {str(key): value for key, value in (overrides or {}).items()}
        for key, value in self.overrides.items():
            if value is not None:
                number(f"overrides[{key!r}]", value, above=0)
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
        self._tallies: dict[int, _Tally] = {}
        self._ranks_may_differ = False

    def clip(self, optimizer: Optimizer) -> None:
        """Clip the gradients of ``optimizer`` now, or keep the step from happening if they are not finite.

        Called by Lightning before every optimizer step. Call it yourself, between backward and ``step()``,
        only for a raw torch optimizer that Lightning does not step.
        """
        assert self._trainer is not None
        trainer, optimizer = self._trainer, getattr(optimizer, "optimizer", optimizer)
        index = trainer.optimizers.index(optimizer)
        tally = self._tallies.setdefault(index, _Tally())
        seen = gradient_pass(trainer, optimizer, self, self.norm_type)
        if not len(seen.norms.per_parameter) or not self._is_sound(seen, optimizer, tally):
            return
        for threshold, members in self._units(seen.norms.parameters, optimizer, index):
            if threshold is not None:
                self._clip_unit(seen, threshold, members, tally)

    def _clip_unit(
        self, seen: GradientPass, threshold: float, members: list[int] | None, tally: "_Tally"
    ) -> None:
        """Clip the parameters at positions ``members`` of ``seen`` (None: all of them) as one."""
        norms = seen.norms
        parameters = norms.parameters if members is None else [norms.parameters[i] for i in members]
        if self.method == "clip_value":
            clip_by_value_(parameters, threshold)
            seen.rewritten = True
            return
        total = norms.total if members is None else total_norm(norms.per_parameter[members], self.norm_type)
        coefficient = clip_coefficient(total, threshold)
        # Where reading costs nothing, a step that needs no clipping is spared the multiplication by 1.
        if coefficient.device.type != "cpu" or coefficient.item() < 1:
            scale_([parameter.grad for parameter in parameters if parameter.grad is not None], coefficient)
        if members is None:
            seen.factors = coefficient
        else:
            if seen.factors is None:
                seen.factors = torch.ones_like(norms.per_parameter)
            seen.factors[members] = coefficient
        tally.pending.append(coefficient)

    def _units(
        self, parameters: Any, optimizer: Optimizer, index: int
    ) -> list[tuple[float | None, list[int] | None]]:
        """Return what is clipped together: thresholds and positions in ``parameters`` (None: all)."""
        default = self.overrides.get(str(index), self.threshold)
        own = {
            group: self.overrides[f"{index}/{group}"]
            for group in range(len(optimizer.param_groups))
            if f"{index}/{group}" in self.overrides
        }
        if not own and not self._exclude:
            return [(default, None)]
        group_of = {
            id(parameter): group
            for group, settings in enumerate(optimizer.param_groups)
            if group in own
            for parameter in settings["params"]
        }
        members: dict[int, list[int]] = {-1: []}
        for position, parameter in enumerate(parameters):
            if not self._is_excluded(parameter):
                members.setdefault(group_of.get(id(parameter), -1), []).append(position)
        return [(own.get(group, default), found) for group, found in members.items() if found]

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

    def _is_sound(self, seen: GradientPass, optimizer: Optimizer, tally: "_Tally") -> bool:
        """Say whether to clip and take this step; if not, its gradients are dealt with already."""
        if self.on_nonfinite is None or seen.searches_scale:
            return True
        total = seen.norms.total
        if self._ranks_may_differ:
            total = torch.where(any_rank(~total.isfinite()) > 0, math.nan, total)
        if math.isfinite(total.item()):
            tally.consecutive_skips = 0
            tally.last_good_step = self._global_step
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

    def _reject(
        self, seen: GradientPass, optimizer: Optimizer, tally: "_Tally", faulty: tuple[int, ...]
    ) -> None:
        assert self._trainer is not None
        names = parameter_names(self._trainer.lightning_module)
        where = [names.get(id(seen.norms.parameters[position]), "?") for position in faulty]
        listed = ", ".join(where[:3]) + (f" and {len(where) - 3} more" if len(where) > 3 else "")
        what = f"gradients are not finite at global step {self._global_step}: {listed or 'on another rank'}"
        if self.on_nonfinite == "raise":
            raise FloatingPointError(f"{what}; {tally.last_good()}")
        tally.skipped_steps += 1
        tally.consecutive_skips += 1
        if tally.consecutive_skips > self.max_consecutive_skips:
            raise FloatingPointError(
                f"{what}; {tally.consecutive_skips} steps in a row"
                f" (max_consecutive_skips={self.max_consecutive_skips}), {tally.last_good()}"
            )
        if tally.skipped_steps == 1:
            done = "skipped" if self.on_nonfinite == "skip" else "taken with zero gradients"
            rank_zero_warn(
                f"GradientClipping: {what}. The step is {done}; later ones are counted, not announced."
            )
        for parameter in optimizer_parameters(optimizer):
            if self.on_nonfinite == "skip":
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad = torch.zeros_like(parameter.grad)

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
        if trainer.fit_loop._should_accumulate() or not logs_at(step, self.log_every_n_steps, trainer):
            return
        scalars: dict[str, float] = {}
        for index, tally in self._tallies.items():
            suffix = f"/optimizer_{index}" if len(trainer.optimizers) > 1 else ""
            scalars.update({f"clip/{name}{suffix}": value for name, value in tally.read().items()})
        if scalars:
            log_scalars(trainer, scalars, step)

    def state_dict(self) -> dict[str, Any]:
        return {"tallies": {str(index): tally.state_dict() for index, tally in self._tallies.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._tallies = {int(index): _Tally.load(state) for index, state in state_dict["tallies"].items()}


@dataclass
class _Tally:
    """What became of the steps of one optimizer."""

    skipped_steps: int = 0
    consecutive_skips: int = 0
    last_good_step: int | None = None
    coefficient: float | None = None
    clipped: deque[bool] = field(default_factory=lambda: deque(maxlen=_RATE_WINDOW))
    pending: list[Tensor] = field(default_factory=list)  # coefficients that are still on the device

    def read(self) -> dict[str, float]:
        """Bring what is pending to the host, in one transfer, and return what is logged."""
        if self.pending:
            coefficients = torch.stack(self.pending).tolist()
            self.pending.clear()
            self.clipped.extend(coefficient < 1 for coefficient in coefficients)
            self.coefficient = coefficients[-1]
        scalars: dict[str, float] = {}
        if self.coefficient is not None:
            scalars["coefficient"] = self.coefficient
            scalars["rate"] = sum(self.clipped) / max(1, len(self.clipped))
        return {**scalars, "skipped_steps": self.skipped_steps}

    def last_good(self) -> str:
        if self.last_good_step is None:
            return "no step before it was good"
        return f"the last good one was global step {self.last_good_step}"

    def state_dict(self) -> dict[str, Any]:
        self.read()
        return {
            "skipped_steps": self.skipped_steps,
            "consecutive_skips": self.consecutive_skips,
            "last_good_step": self.last_good_step,
            "coefficient": self.coefficient,
            "clipped": list(self.clipped),
        }

    @classmethod
    def load(cls, state: dict[str, Any]) -> "_Tally":
        tally = cls(**{key: value for key, value in state.items() if key != "clipped"})
        tally.clipped.extend(state["clipped"])
        return tally
