"""Histories of made-up numbers, for the tests of rules."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from lightning_gradtools.diagnosis import Finding, Severity
from lightning_gradtools.diagnosis.loop_observation import LoopObservation
from lightning_gradtools.diagnosis.observation import ActivationObservation, History, LayerObservation, Observation
from lightning_gradtools.diagnosis.rules import diagnose


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


def loops(seen: Sequence[LoopObservation], every: int = 10, **settings: Any) -> History:
    """A run that shows these of its training loop, one each ``every`` steps."""
    made = history(steps=every * (len(seen) - 1) + 1, every=every, **settings)
    for kept in (made.first_observations, made.observations):
        kept[:] = [replace(each, loop=seen[each.step // every]) for each in kept]
    return made


def falling(step: int) -> float:
    return 2.3 * math.exp(-step / 40) + 0.02 * noise(step)


def decaying(gain: float, depth: int = 8) -> Callable[[int], tuple[LayerObservation, ...]]:
    """Layers whose gradients are multiplied by ``gain`` at each on the way back."""
    return lambda step: layers([gain ** (depth - i) for i in range(depth)])


def found(made: History) -> dict[tuple[str, str], Finding]:
    """What all rules find, by kind and layer."""
    return {(str(each.kind), each.layer): each for each in diagnose(made)}


def serious(made: History) -> set[tuple[str, str]]:
    """Kind and layer of what they find at ``warning`` or above."""
    return {key for key, each in found(made).items() if each.severity >= Severity.WARNING}
