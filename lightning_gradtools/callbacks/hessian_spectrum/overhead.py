"""When an expensive measurement is due, so that it takes at most a share of the training time."""

import math
import time

import torch

from lightning_gradtools.distributed import mean_over_ranks

_FIRST_LOOK = 10  # steps after which the speed of training is known well enough to plan by
_GUESSED_COST = 60  # training steps that a measurement of one batch is taken to cost until the first one is timed


class OverheadBudget:
    """Keeps account of the time that measurements take, and plans the next one.

    All ranks must measure at the same step, so it plans in steps, from times averaged over ranks.

    Args:
        largest_share: of the training time, measurements included.
        step: the step at which training starts.
        batches: how many a measurement uses.
        device: for what ranks exchange.
    """

    def __init__(self, largest_share: float, step: int, batches: int, device: torch.device) -> None:
        self._largest, self._first_step, self._batches, self._device = largest_share, step, batches, device
        self._started = time.perf_counter()
        self._next = step + _FIRST_LOOK
        self._spent = self._cost = 0.0
        self._timed = False

    def due(self, step: int) -> bool:
        """Say whether to measure after ``step``; ask after every step, on all ranks."""
        if step < self._next:
            return False
        wait = 1 if self._timed else self._steps_until_affordable(step)
        self._next = step + wait
        return wait == 1

    def charge(self, seconds: float, step: int) -> None:
        """Add what a measurement after ``step`` took, and find the step of the next one; on all ranks."""
        self._cost, self._timed = seconds, True
        self._spent += seconds
        self._next = step + self._steps_until_affordable(step)

    @property
    def share(self) -> float:
        """Return the share of the time since training started that measurements took on this rank."""
        return self._spent / max(time.perf_counter() - self._started, 1e-9)

    def _steps_until_affordable(self, step: int) -> int:
        """Return after how many steps one more measurement would stay within the share; at least 1."""
        seconds = [time.perf_counter() - self._started, self._spent, self._cost]
        dtype = torch.float32 if self._device.type == "mps" else torch.float64
        elapsed, spent, latest = mean_over_ranks(torch.tensor(seconds, dtype=dtype, device=self._device)).tolist()
        per_step: float = max((elapsed - spent) / max(step - self._first_step, 1), 1e-9)
        cost = latest if self._timed else _GUESSED_COST * self._batches * per_step
        wait: float = ((spent + cost) / self._largest - elapsed - cost) / per_step
        return max(1, math.ceil(wait))
