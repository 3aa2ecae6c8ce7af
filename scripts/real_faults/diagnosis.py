"""Which of the record's labels a finding names, by its kind, or by its first remedy where the kind has many causes."""

import re
from collections.abc import Mapping
from typing import Any

from real_faults.program import Label

KINDS: dict[str, frozenset[Label]] = {
    "output_mismatch": frozenset({Label.ACTIVATION, Label.LOSS}),
    "loss_mismatch": frozenset({Label.LOSS, Label.ACTIVATION}),
    "dead_relu": frozenset({Label.ACTIVATION}),
    "saturated_activation": frozenset({Label.ACTIVATION}),
    "vanishing_gradient": frozenset({Label.ACTIVATION}),
    "unscaled_data": frozenset({Label.PREPROCESSING}),
    "poor_initialization": frozenset({Label.INITIALIZATION}),
    "learning_rate_too_high": frozenset({Label.LEARNING_RATE}),
    "learning_rate_too_low": frozenset({Label.LEARNING_RATE}),
    "gradients_not_cleared": frozenset({Label.LOOP}),
    "evaluation_mode": frozenset({Label.LOOP}),
    "not_optimized": frozenset({Label.LOOP}),
    "repeated_batch": frozenset({Label.LOOP}),
    "schedule_interval": frozenset({Label.LOOP}),
    "lost_updates": frozenset({Label.LOOP}),
}
BY_REMEDY = frozenset({"exploding_gradient", "oscillating_loss", "stalled_training", "nonfinite"})
RATES = frozenset(
    {"lower_learning_rate", "raise_learning_rate", "search_learning_rate", "warm_up", "decay_learning_rate"}
)
RATE = re.compile(r"\blearning rate\b", re.IGNORECASE)
LONGER = re.compile(r"\b(more (epochs|steps)|longer|train on)\b", re.IGNORECASE)
OPTIMIZER = re.compile(r"\b(Adam\w*|SGD|RMSprop|Adagrad|(other|another|different) optimizer)\b", re.IGNORECASE)


def named(finding: Mapping[str, Any]) -> frozenset[Label]:
    """Return the labels that a finding names.

    Args:
        finding: as of ``Finding.as_dict``.
    """
    found = set(KINDS.get(finding["kind"], ()))
    first = next(iter(finding.get("remedy", ())), None)
    sentence = first["sentence"] if first else ""
    if finding["kind"] == "learning_rate_too_low" and LONGER.search(finding["message"] + sentence):
        found.add(Label.EPOCHS)
    if first is None or finding["kind"] not in BY_REMEDY:
        return frozenset(found)
    if first.get("change") in RATES or (first.get("change") is None and RATE.search(sentence)):
        found.add(Label.LEARNING_RATE)
        if OPTIMIZER.search(sentence):
            found.add(Label.OPTIMIZER)
    elif finding["kind"] == "stalled_training" and LONGER.search(sentence):
        found.add(Label.EPOCHS)
    return frozenset(found)
