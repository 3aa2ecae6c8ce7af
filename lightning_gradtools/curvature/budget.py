"""How much a computation may spend."""

import time
from dataclasses import dataclass

import torch

from lightning_gradtools.arguments import number
from lightning_gradtools.curvature.operator import CurvatureOperator
from lightning_gradtools.distributed import mean_over_ranks_of


@dataclass(frozen=True)
class Budget:
    """A limit in gradients, in seconds, or both; None means no limit.

    Args:
        gradients: gradient-equivalents by operation count, which are the same on every machine.
        seconds: of the clock on the wall.

    Raises:
        ArgumentError: if a limit is not positive.
    """

    gradients: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("gradients", "seconds"):
            if getattr(self, name) is not None:
                number(name, getattr(self, name), above=0)


class Meter:
    """Tells whether another product is within a budget.

    Args:
        operator: whose products are counted.
        budget: the limit.
        started: ``time.perf_counter()`` when spending began.
        shared: whether ranks work together, and so have to agree on the time.
    """

    def __init__(self, operator: CurvatureOperator, budget: Budget, started: float, *, shared: bool) -> None:
        self._operator, self._budget, self._started, self._shared = operator, budget, started, shared

    @property
    def seconds(self) -> float:
        """Return the seconds spent; where ranks work together their mean."""
        if not self._shared:
            return time.perf_counter() - self._started
        zero = torch.zeros((), dtype=torch.float64, device=self._operator.device)  # where gradients can be reduced
        return float(mean_over_ranks_of(lambda: zero + (time.perf_counter() - self._started), zero))

    def affords_product(self) -> bool:
        """Say whether another product is within the budget."""
        gradients, seconds = self._budget.gradients, self._budget.seconds
        within = gradients is None or self._operator.gradients_spent + self._operator.product_cost <= gradients
        return within and (seconds is None or self.seconds < seconds)
