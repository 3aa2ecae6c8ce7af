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
    run.planned_steps = 150
    assert fails(run)
    run.planned_steps = 1000
    assert not fails(run)


def test_a_nan_is_failing_until_training_has_recovered_from_it():
    run = history(loss=falling)
    run.nonfinite.append(NonfiniteEvent(10, 1, 0, "forward", "a"))
    assert fails(run)
    run.recovered_from = 1
    assert not fails(run)
