import json

import pytest
from histories import history, layers

from lightning_gradtools.diagnosis.observation import ActivationObservation, History, NonfiniteEvent, persists


def test_a_history_survives_json():
    made = history(activations=lambda step: (ActivationObservation("a", "relu", 8, dead=step),), skill=lambda step: 0.1)
    made.nonfinite.append(NonfiniteEvent(3, 1, 0, "loss", "", "x"))
    assert History.from_dict(json.loads(json.dumps(made.as_dict()))) == made


def test_it_forgets_the_oldest_and_keeps_the_first_losses():
    made = history(loss=float, steps=2000, every=1)
    assert made.first_losses == [0, 1, 2, 3, 4]
    assert len(made.losses) == History.MAX_LOSSES
    assert len(made.observations) == History.MAX_OBSERVATIONS


def test_a_loss_that_is_not_finite_is_noted_and_not_kept():
    made = history(steps=10)
    made.add_loss(10, float("nan"))
    assert made.last_nonfinite == 10
    assert len(made.losses) == 10


@pytest.mark.parametrize(
    ("rate", "expected"),
    [(lambda s: 0.0, True), (lambda s: s / 100, True), (lambda s: 0.1, False), (lambda s: 1 - s / 95, False)],
    ids=["zero", "rising", "constant", "falling"],
)
def test_warm_up_is_a_rate_that_has_only_risen(rate, expected):
    assert history(rate=rate).warming_up() is expected


def test_persistence_counts_steps_of_an_unbroken_run():
    made = history(steps=50, seen=lambda step: layers([1.0]))
    held = dict(zip((each.step for each in made.observations), [True, False, True, True, True], strict=True))
    assert persists(made, lambda each: held[each.step], 3) == 21
    assert persists(made, lambda each: held[each.step], 4) == 0
    assert persists(made, lambda each: each is not made.observations[-1], 1) == 0
