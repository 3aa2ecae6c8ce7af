"""Factors of the learning rate by step."""

import math
from typing import Any


def cosine(steps: int, power: int = 1, warmup: int = 0) -> Any:
    """Return a factor that rises from 0 if there is a warm-up, and falls to 0 along a power of a cosine."""

    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        return float((0.5 + 0.5 * math.cos(math.pi * min(1.0, (step - warmup) / (steps - warmup)))) ** power)

    return factor


def restarts(period: int) -> Any:
    """Return a factor that falls along a cosine and jumps back to 1."""
    return lambda step: 0.5 + 0.5 * math.cos(math.pi * (step % period) / period)


def falling(steps: int, power: float) -> Any:
    """Return a factor of the learning rate that falls to 0 and stays there."""
    return lambda step: max(0.0, 1 - step / steps) ** power


def late_warmup(step: int) -> float:
    """Ten steps at a rate of 0, then a slow rise."""
    return min(1.0, max(0.0, (step - 9) / 60))


def linear_warmup(step: int) -> float:
    return min(1.0, step / 60)
