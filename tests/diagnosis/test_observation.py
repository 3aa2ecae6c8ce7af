import json
from dataclasses import replace

import pytest
from helpers.histories import history, layers

from lightning_gradtools.diagnosis.loop_observation import LoopObservation, ScheduleObservation
from lightning_gradtools.diagnosis.observation import (
    ActivationObservation,
    AttentionObservation,
    History,
    NonfiniteEvent,
    Observation,
    RoutingObservation,
    persists,
)


def test_a_history_survives_json():
    made = history(activations=lambda step: (ActivationObservation("a", "relu", 8, dead=step),), skill=lambda step: 0.1)
    made.nonfinite.append(NonfiniteEvent(3, 1, 0, "loss", "", "x"))
    made.schedules.append(ScheduleObservation("LambdaLR", "step", (3, 10), 10, 20, 2, 5))
    loop = LoopObservation(uncleared=("a.weight",), left_over=0.5, evaluating=("a",), lost=0.5, precision="bfloat16")
    made.add(Observation(step=100, layers=(), loop=loop))
    assert History.from_dict(json.loads(json.dumps(made.as_dict()))) == made


def test_heads_and_experts_survive_json_and_a_state_without_them_loads():
    made = history()
    parts = {
        "attention": (AttentionObservation("a", (1.0, 2.0), (0.5, 1.0)),),
        "routing": (RoutingObservation("b", "b.experts", (0.25, 0.75)),),
        "log_partition": 3.0,
        "logit_margin": 1.0,
    }
    before, made.observations = made.observations, [replace(each, **parts) for each in made.observations]
    state = json.loads(json.dumps(made.as_dict()))
    assert History.from_dict(state) == made
    for each in state["observations"]:
        for name in parts:
            del each[name]
    assert History.from_dict(state).observations == before


def test_it_forgets_the_oldest_and_keeps_the_first_losses():
    made = history(loss=float, steps=2000, every=1)
    assert made.first_losses == [0, 1, 2, 3, 4]
    assert len(made.losses) == History.MAX_LOSSES
    assert len(made.observations) == History.MAX_OBSERVATIONS


def test_the_first_observations_are_kept_apart_from_the_latest():
    made = history(steps=2000, every=1)
    assert [each.step for each in made.first_observations] == [0, 1, 2, 3, 4]
    assert made.observations[0].step == 2000 - History.MAX_OBSERVATIONS
    assert [each.step for each in History.from_dict(made.as_dict()).first_observations] == [0, 1, 2, 3, 4]


def state():
    made = history(activations=lambda step: (ActivationObservation("a", "relu", 8, dead=step),), skill=lambda step: 0.1)
    made.nonfinite.append(NonfiniteEvent(3, 1, 0, "loss", ""))
    return made, json.loads(json.dumps(made.as_dict()))


def test_the_keys_of_a_state_are_those_of_checkpoints_that_exist():
    assert set(state()[1]) == {
        "observations",
        "losses",
        "first_losses",
        "peak_learning_rate",
        "nonfinite",
        "last_nonfinite",
        "reached",
        "largest_update",
        "planned_steps",
        "guesses",
        "first_observations",
        "recovered_from",
        "schedules",
        "scheduled",
        "contracts",
    }


def test_a_state_of_before_first_observations_loads():
    made, saved = state()
    del saved["first_observations"], saved["recovered_from"]
    assert History.from_dict(saved) == made
    assert History.from_dict({}) == History()


def test_a_state_of_a_later_version_loads():
    made, saved = state()
    for each in (saved, *saved["observations"], *saved["nonfinite"]):
        each["added later"] = 1
    for observation in saved["observations"]:
        for each in (*observation["layers"], *observation["activations"]):
            each["added later"] = 1
    assert History.from_dict(saved) == made


def test_a_loaded_history_shares_nothing_with_the_state():
    _, saved = state()
    before = json.dumps(saved)
    loaded = History.from_dict(saved)
    loaded.add_loss(500, 1.0)
    loaded.add(loaded.observations[-1])
    loaded.first_losses.append(1.0)
    loaded.largest_update["a"] = loaded.peak_learning_rate
    loaded.baselines.append(1.0)
    assert json.dumps(saved) == before


def test_the_baseline_loss_is_that_of_which_the_skill_is_measured():
    made = history(loss=lambda step: 2.0, skill=lambda step: 0.2)
    assert made.baseline_loss() == pytest.approx(2.5)
    assert history(loss=lambda step: 2.0).baseline_loss() is None


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
