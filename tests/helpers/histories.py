"""Histories of made-up numbers, for the tests of rules."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from lightning_gradtools.diagnosis.observation import ActivationObservation, History, LayerObservation, Observation


def layers(backward: Sequence[float | None], **settings: Any) -> tuple[LayerObservation, ...]:
    """Layers ``0``, ``1`` ... that received these gradients at their outputs."""
    defaults = {"signal": 1.0, "gradient": 1.0, "weight": 1.0, "update": 1e-3}
    return tuple(LayerObservation(name=str(i), backward=b, **{**defaults, **settings}) for i, b in enumerate(backward))


def noise(step: int) -> float:
    """A number in (-1, 1) that looks like noise and is the same every time."""
    return math.sin(12.9898 * step * step + 78.233 * step)


def history(
    loss: Callable[[int], float] = lambda step: 2.3 + 0.02 * noise(step),
    steps: int = 100,
    every: int = 10,
    skill: Callable[[int], float] | None = None,
    rate: Callable[[int], float] = lambda step: 0.1,
    seen: Callable[[int], tuple[LayerObservation, ...]] = lambda step: layers([1.0] * 5),
    activations: Callable[[int], tuple[ActivationObservation, ...]] = lambda step: (),
) -> History:
    found = History()
    for step in range(steps):
        found.add_loss(step, loss(step))
        if step % every == 0:
            score = None if skill is None else skill(step)
            found.add(Observation(step, seen(step), activations(step), rate(step), score))
    return found


def falling(step: int) -> float:
    return 2.3 * math.exp(-step / 40) + 0.02 * noise(step)
