import dataclasses
import itertools
import json

import pytest

from lightning_gradtools.diagnosis import Change, Evidence, Finding, Kind, Remedy, Severity

FINDING = Finding(
    Kind.DEAD_RELU,
    "net.3",
    60,
    Severity.CRITICAL,
    (Evidence("share", 0.97, 0.95, 40),),
    "97% are dead",
    (Remedy("Lower the learning rate.", ("a=b",), "lr=0.001", Change.LOWER_LEARNING_RATE, 0.001), Remedy("Look.")),
    80,
)


def test_severities_are_ordered_as_strings_and_as_members():
    for (i, a), (j, b) in itertools.product(enumerate(Severity), repeat=2):
        assert (a < b, a <= b, a > b, a >= b) == (i < j, i <= j, i > j, i >= j)
    assert Severity.CRITICAL > "warning" > Severity.INFO


def test_kinds_are_the_published_strings_and_new_ones_come_after_them():
    published = [
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
    assert [str(kind) for kind in Kind][: len(published)] == published


def test_it_is_frozen_and_survives_json():
    assert Finding.from_dict(json.loads(json.dumps(FINDING.as_dict()))) == FINDING
    with pytest.raises(dataclasses.FrozenInstanceError):
        FINDING.step = 3


def test_it_is_made_of_plain_values():
    """A checkpoint holds it, which torch.load reads with ``weights_only=True``: no class of ours."""

    def parts(value):
        if isinstance(value, dict):
            return [each for item in value.values() for each in parts(item)]
        return [each for item in value for each in parts(item)] if isinstance(value, (list, tuple)) else [value]

    assert {type(each) for each in parts(FINDING.as_dict())} == {str, int, float, type(None)}


def test_a_dictionary_of_another_version_loads():
    found = json.loads(json.dumps(FINDING.as_dict()))
    for each in (found, *found["evidence"], *found["remedy"]):
        each["added later"] = 1
    assert Finding.from_dict(found) == FINDING
    for each in found["remedy"]:
        del each["change"], each["value"], each["overrides"]
    loaded = Finding.from_dict(found)
    assert loaded.remedy == (Remedy("Lower the learning rate.", code="lr=0.001"), Remedy("Look."))
    del found["remedy"], found["resolved_at"]
    assert Finding.from_dict(found) == dataclasses.replace(FINDING, remedy=(), resolved_at=None)
