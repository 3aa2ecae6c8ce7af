import pytest
from helpers.histories import falling, history, noise

from lightning_gradtools.diagnosis.failing import training_fails
from lightning_gradtools.diagnosis.observation import NonfiniteEvent
from lightning_gradtools.diagnosis.rule import RuleContext


def fails(run):
    return training_fails(RuleContext.of(run))


@pytest.mark.parametrize(
    ("settings", "answer"),
    [
        ({}, True),
        ({"loss": falling}, False),
        ({"steps": 59}, False),
        ({"steps": 60}, True),
        ({"loss": lambda step: 2.3 + noise(step)}, False),  # too noisy to tell
        ({"loss": lambda step: 2.3 + noise(step), "steps": 320}, True),
        ({"rate": lambda step: 1e-3 * (step + 1)}, False),  # warming up
        ({"loss": lambda step: 2.3 - 2e-3 * step}, False),  # slowly, but on its way
    ],
)
def test_failing_is_to_have_learned_nothing_and_not_to_be_on_the_way(settings, answer):
    assert fails(history(**settings)) is answer


def test_half_of_the_run_without_much_is_failing():
    run = history(loss=lambda step: 2.3 - 2e-3 * step)
    run.planned_steps = 120  # most of it, as the loss falls
    assert fails(run)
    run.planned_steps = 150
    assert not fails(run)


@pytest.mark.parametrize(
    ("skill", "answer"),
    [
        (lambda step: 0.0 if step < 20 else -9.5, True),
        (lambda step: 0.0 if step < 20 else -8.5, False),
        (lambda step: 0.0 if step < 30 else -9.5, False),  # one outlier
        (lambda step: -30.0, False),  # from the start: an offset that is still to be learned
        (lambda step: -30.0 if step < 20 else -400.0, True),
        (lambda step: None if step < 20 else -30.0, False),  # few targets: where it began is not known
    ],
)
def test_a_loss_that_runs_away_is_failing_at_once(skill, answer):
    assert fails(history(steps=31, skill=skill, loss=lambda step: 1 - (skill(step) or 0.0))) is answer


def test_adversaries_have_no_loss_that_must_not_rise():
    run = history(steps=31, skill=lambda step: 0.0 if step < 20 else -50.0)
    assert fails(run)
    run.losses.clear()
    assert not fails(run)


def test_a_nan_is_failing_until_training_has_recovered_from_it():
    run = history(loss=falling)
    run.nonfinite.append(NonfiniteEvent(10, 1, 0, "forward", "a"))
    assert fails(run)
    run.recovered_from = 1
    assert not fails(run)
