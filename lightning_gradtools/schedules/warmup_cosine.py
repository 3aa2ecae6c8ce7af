"""Warm-up, hold, decay: one family of schedules, as a formula and as a torch scheduler."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_gradtools.arguments import ArgumentError, integer, number, one_of

# How far a cycle has come down, 1 at its start and 0 at its end, for progress p in [0, 1].
_DECAYS: dict[str, Callable[[float], float]] = {
    "cosine": lambda p: (1 + math.cos(math.pi * p)) / 2,
    "linear": lambda p: 1 - p,
    "1-sqrt": lambda p: 1 - math.sqrt(p),
}


@dataclass(frozen=True)
class WarmupCosine:
    """The factor on the base learning rate at optimizer step k: a line up, a hold, a decay to a floor.

    ``factor(k)`` multiplies the learning rate with which optimizer step k is made, k = 0 being the first.
    With w = ``warmup_steps``, T = ``total_steps``, D = ``decay_steps`` (all that follows the warm-up unless
    given), s = ``warmup_start_factor``, r = ``min_lr_ratio`` and n = ``num_cycles``::

        k < w              s + (1 - s) * k / w                 warm-up
        w <= k < T - D     1                                   hold
        T - D <= k < T     r + (1 - r) * decay(p)              decay, p = fraction of n * (k - T + D) / D
        k >= T             r                                   floor: it never climbs back

    where ``decay(p)`` is ``(1 + cos(pi p)) / 2`` (``"cosine"``), ``1 - p`` (``"linear"``) or ``1 - sqrt(p)``
    (``"1-sqrt"``). The peak, factor 1, comes at step w exactly. The floor comes at step T exactly, which is
    one past the last of T steps, as in :class:`torch.optim.lr_scheduler.CosineAnnealingLR`.

    Edges: w = 0 starts at the peak; w = T climbs to the end of the run and drops to the floor after it; n > 1
    jumps back to the peak n - 1 times, at the first step at or past each n-th part of the decay.

    Args:
        total_steps: T, at least 1.
        warmup_steps: w, from 0 to T.
        min_lr_ratio: r, the floor as a fraction of the base learning rate, in [0, 1].
        warmup_start_factor: s, in [0, 1]. Left out, it is ``1 / (w + 1)``: the line that would be at zero one
            step before the run, so that no step is wasted. Ask for 0 to have a first step of learning rate
            zero.
        decay: ``"cosine"``, ``"linear"`` or ``"1-sqrt"``.
        decay_steps: D, from 0 to T - w. Less than T - w gives warm-up-stable-decay.
        num_cycles: n, at least 1; more than 1 gives equal warm restarts within the decay.

    Raises:
        ArgumentError: if an argument is out of its range.

    Sources: cosine and restarts, Loshchilov & Hutter 2017, "SGDR", equation 5, with the floor relative to the
    peak; linear warm-up, Goyal et al. 2017, "Accurate, Large Minibatch SGD", section 2.2;
    warm-up-stable-decay, Hu et al. 2024, "MiniCPM", section 4; the "1-sqrt" decay, Hägele et al. 2024,
    "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations".
    """

    total_steps: int
    warmup_steps: int = 0
    min_lr_ratio: float = 0.0
    warmup_start_factor: float | None = None
    decay: str = "cosine"
    decay_steps: int | None = None
    num_cycles: int = 1

    def __post_init__(self) -> None:
        integer("total_steps", self.total_steps, at_least=1)
        integer("warmup_steps", self.warmup_steps, at_least=0)
        if self.warmup_steps > self.total_steps:
            raise ArgumentError(f"warmup_steps={self.warmup_steps}: must be at most total_steps={self.total_steps}")
        number("min_lr_ratio", self.min_lr_ratio, at_least=0, at_most=1)
        if self.warmup_start_factor is not None:
            number("warmup_start_factor", self.warmup_start_factor, at_least=0, at_most=1)
        one_of("decay", self.decay, _DECAYS)
        if self.decay_steps is not None:
            integer("decay_steps", self.decay_steps, at_least=0)
            if self.decay_steps > self.total_steps - self.warmup_steps:
                raise ArgumentError(
                    f"decay_steps={self.decay_steps}: must be at most total_steps - warmup_steps = "
                    f"{self.total_steps - self.warmup_steps}"
                )
        integer("num_cycles", self.num_cycles, at_least=1)

    def factor(self, step: int) -> float:
        """Return what the base learning rate is multiplied by at optimizer step ``step``, counted from 0."""
        if step >= self.total_steps:
            return self.min_lr_ratio
        if step < self.warmup_steps:
            start = self.warmup_start_factor
            if start is None:
                start = 1 / (self.warmup_steps + 1)
            return start + (1 - start) * step / self.warmup_steps
        length = self.total_steps - self.warmup_steps if self.decay_steps is None else self.decay_steps
        elapsed = step - (self.total_steps - length)
        if elapsed < 0:
            return 1.0
        # Multiplied first: elapsed / length * num_cycles, rounded twice, can fall just short of a restart.
        progress = self.num_cycles * elapsed % length / length
        return self.min_lr_ratio + (1 - self.min_lr_ratio) * _DECAYS[self.decay](progress)


class WarmupCosineLR(LRScheduler):
    """:class:`WarmupCosine` as a torch scheduler: call ``step()`` once after each ``optimizer.step()``.

    Each parameter group's learning rate is its own base learning rate times the factor, so groups keep their
    proportions. The rate is computed from the number of steps and never from the rate before it, so
    ``step()`` repeated k times and ``step(k)`` agree to the last bit however long the run.

    A group that ``add_param_group`` adds later joins: its base learning rate is its ``"initial_lr"`` or, without
    one, the ``"lr"`` it was added with, as for the groups that the optimizer was made with.

    The state is where the schedule stands: the number of steps and the base learning rates. The shape comes
    from the arguments, also on resume: loading a state into a scheduler built with another ``total_steps``
    continues at the same step on the new curve, and writes that learning rate into the optimizer at once. The
    shape at the time of saving travels in the state, under ``"schedule"``, for whoever wants to tell.

    Args:
        optimizer: the optimizer whose parameter groups' ``lr`` is set.
        schedule: the shape; None while it is not known, for :meth:`follow` to give: until then the groups are
            left at their base learning rates, or at what the optimizer's own state says.
        last_epoch: the step to continue from, in torch's own meaning and under its name; -1 starts anew.

    Attributes:
        loaded_schedule: the shape at the time of saving, as in the state; None if no state was loaded.
    """

    def __init__(self, optimizer: Optimizer, schedule: WarmupCosine | None, last_epoch: int = -1) -> None:
        self.schedule = schedule
        self.loaded_schedule: dict[str, Any] | None = None
        super().__init__(optimizer, last_epoch)

    def follow(self, schedule: WarmupCosine) -> None:
        """Go on at the same step on the curve of ``schedule``, and write its learning rates into the optimizer."""
        self.schedule = schedule
        self._write_rates()

    def join_added_groups(self) -> None:
        """Put groups that were added to the optimizer on the curve, where the others are."""
        if len(self.base_lrs) < len(self.optimizer.param_groups):
            self._write_rates()

    def get_lr(self) -> list[float | Tensor]:
        """Return each parameter group's learning rate for the next optimizer step."""
        self._know_added_groups()
        factor = 1.0 if self.schedule is None else self.schedule.factor(self.last_epoch)
        return [base_lr * factor for base_lr in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain types, so that a checkpoint loads with ``weights_only=True``."""
        self._know_added_groups()
        schedule = self.loaded_schedule if self.schedule is None else asdict(self.schedule)
        state = {key: value for key, value in super().state_dict().items() if key != "loaded_schedule"}
        return {**state, "schedule": schedule}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the saved step, on the curve of this scheduler's own arguments.

        What another version saved beside that is left out.

        Raises:
            ArgumentError: if the state is of another kind of scheduler, of another number of parameter
                groups, or says not where it stands.
        """
        if "schedule" not in state_dict:
            raise ArgumentError(
                "state_dict: must be the state of a WarmupCosineLR; this one is of another scheduler, whose "
                "steps may be epochs"
            )
        if missing := [key for key in ("base_lrs", "last_epoch") if key not in state_dict]:
            raise ArgumentError(f"state_dict: must say {' and '.join(missing)}; this one was saved by another version")
        if len(state_dict["base_lrs"]) != len(self.optimizer.param_groups):
            raise ArgumentError(
                f"state_dict: has {len(state_dict['base_lrs'])} parameter groups, must have the optimizer's "
                f"{len(self.optimizer.param_groups)}"
            )
        own = self.__dict__.keys() - {"optimizer", "schedule", "loaded_schedule"}
        super().load_state_dict({key: value for key, value in state_dict.items() if key in own})
        self.loaded_schedule = state_dict["schedule"]
        if self.schedule is not None:
            # The optimizer's own state, loaded before, holds the rates of the curve it was saved with.
            self._write_rates()

    def _know_added_groups(self) -> None:
        for group in self.optimizer.param_groups[len(self.base_lrs) :]:
            rate = group["lr"]
            base_lr = group.setdefault("initial_lr", rate.clone() if isinstance(rate, Tensor) else rate)
            self.base_lrs.append(base_lr.clone() if isinstance(base_lr, Tensor) else base_lr)

    def _write_rates(self) -> None:
        self._last_lr = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
