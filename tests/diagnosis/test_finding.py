import dataclasses
import itertools
import json

import pytest

from lightning_gradtools.diagnosis import Evidence, Finding, Kind, Remedy, Severity

FINDING = Finding(
    Kind.DEAD_RELU,
    "net.3",
    60,
    Severity.CRITICAL,
    (Evidence("share", 0.97, 0.95, 40),),
    "97% are dead",
    (Remedy("Lower the learning rate.", ("optimizer.lr=0.001",), "lr=0.001"),),
    80,
)


def test_severities_are_ordered_as_strings_and_as_members():
    for (i, a), (j, b) in itertools.product(enumerate(Severity), repeat=2):
        assert (a < b, a <= b, a > b, a >= b) == (i < j, i <= j, i > j, i >= j)
    assert Severity.CRITICAL > "warning" > Severity.INFO


def test_kinds_are_the_published_strings():
    assert [str(kind) for kind in Kind] == [
        "vanishing_gradient",
        "exploding_gradient",
        "dead_relu",
        "saturated_activation",
        "nonfinite",
        "no_gradient",
        "oscillating_loss",
        "stalled_training",
        "poor_initialization",
    ]


def test_it_is_frozen_and_survives_json():
    assert Finding.from_dict(json.loads(json.dumps(FINDING.as_dict()))) == FINDING
    with pytest.raises(dataclasses.FrozenInstanceError):
        FINDING.step = 3
