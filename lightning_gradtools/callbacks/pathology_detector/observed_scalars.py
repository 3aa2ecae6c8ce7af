"""What is logged of an observation, by key."""

import math
from itertools import pairwise

from lightning_gradtools.diagnosis.observation import Observation

_TWO_SIDED = ("tanh", "hardtanh", "sigmoid", "hardsigmoid", "softmax")


def observed_scalars(observation: Observation) -> dict[str, float]:
    """Return ``diagnosis/skill``, ``dead_units/``, ``saturated_units/`` and ``backward_gain/`` of a sampled step."""
    scalars: dict[str, float] = {}
    if observation.skill is not None:
        scalars["diagnosis/skill"] = observation.skill
    for each in observation.activations:
        kind, count = ("saturated", each.saturated) if each.function in _TWO_SIDED else ("dead", each.dead)
        scalars[f"{kind}_units/{each.name}"] = count / each.units
    chain = [layer for layer in observation.layers if layer.backward]
    for layer, after in pairwise(chain):
        scalars[f"backward_gain/{layer.name}"] = (layer.backward or 0.0) / (after.backward or math.inf)
    return scalars
