import math

import pytest
from helpers.histories import falling, found, history, layers

from lightning_gradtools.diagnosis import Kind, Severity
from lightning_gradtools.diagnosis.finding_tracker import FindingTracker
from lightning_gradtools.diagnosis.observation import ActivationObservation, History, NonfiniteEvent, Observation
from lightning_gradtools.diagnosis.rules import diagnose


def broken(step=20, layer="net.3", direction="forward", **settings):
    """A history of thirty steps of which one was not finite."""
    made = history(loss=falling, steps=30, **settings)
    come(made, step, layer, direction)
    return made


def come(made, step, layer, direction="forward"):
    made.nonfinite.append(NonfiniteEvent(step, 4, 1, direction, layer))
    made.last_nonfinite = max(made.last_nonfinite, step)


def test_it_says_where_until_it_is_over():
    made = broken()
    finding = found(made)["nonfinite", "net.3"]
    assert (finding.kind, finding.step, finding.severity) == (Kind.NONFINITE, 20, Severity.CRITICAL)
    for step in range(30, 71):
        made.add_loss(step, falling(step))
    assert found(made)
    made.add_loss(71, falling(71))
    assert not found(made)


def test_no_rule_behind_it_is_asked_meanwhile():
    def dead(step):
        return (ActivationObservation("a", "relu", units=32, dead=32, samples=999),)

    made = broken(activations=dead)
    assert set(found(made)) == {("nonfinite", "net.3")}
    made.nonfinite.clear()
    assert ("dead_relu", "a") in found(made)


@pytest.mark.parametrize(("direction", "severity"), [("forward", "critical"), ("input data", "info")])
def test_weights_that_begin_far_out_are_what_it_follows_from(direction, severity):
    made = broken(skill=lambda step: -50.0, direction=direction)
    assert str(found(made)["poor_initialization", ""].severity) == severity
    assert ("nonfinite", "net.3") in found(made)


def test_a_second_event_is_counted_and_the_first_one_stays_what_was_found():
    made = broken()
    first = found(made)["nonfinite", "net.3"]
    come(made, 25, "net.7", "backward")
    assert set(found(made)) == {("nonfinite", "net.3")}
    second = found(made)["nonfinite", "net.3"]
    assert (second.step, second.message, second.remedy) == (first.step, first.message, first.remedy)
    assert [each.value for each in second.evidence] == [*(each.value for each in first.evidence), 1]


def test_what_comes_after_recovery_is_found_anew():
    made = broken()
    for step in range(30, 90):
        made.add_loss(step, falling(step))
    come(made, 90, "net.7")
    assert set(found(made)) == {("nonfinite", "net.7")}


def observed_to(made, last, gradient):
    for step in range(made.step + 1, last, 10):
        made.add(Observation(step, layers([gradient] * 3, gradient=gradient), learning_rate=0.1))


def test_a_run_in_which_no_finite_loss_came_since_has_not_recovered():
    made, tracker = broken(), FindingTracker()
    tracker.update(diagnose(made), made.step)
    for step in range(30, 300, 10):  # steps without a loss: nothing says that it is finite again
        made.add(Observation(step, layers([1.0] * 3), learning_rate=0.1))
        tracker.update(diagnose(made), step)
    assert [each.resolved_at for each in tracker.findings] == [None]


@pytest.mark.parametrize(("gradient", "recovers"), [(math.nan, False), (1.0, True)])
def test_without_a_single_loss_finite_gradients_are_recovery(gradient, recovers):
    made = History()
    observed_to(made, 20, 1.0)
    come(made, 20, "net.3")
    observed_to(made, 200, gradient)
    assert (not found(made)) is recovers


def test_a_resumed_run_stands_where_it_was():
    made = broken()
    come(made, 25, "net.7")
    resumed = History.from_dict(made.as_dict())
    assert found(resumed) == found(made)
    for step in range(30, 90):
        resumed.add_loss(step, falling(step))
    assert not found(History.from_dict(resumed.as_dict()))


@pytest.mark.parametrize(
    ("direction", "skill", "first"),
    [
        ("input data", 0.5, "Clean the data"),
        ("optimizer update", 0.5, "Lower the learning rate, or warm it up"),
        ("forward", 0.5, "Look at the operation"),
        ("forward", -20.0, "Lower the learning rate or clip"),
    ],
)
def test_what_to_try_depends_on_where_it_came_from(direction, skill, first):
    made = broken(direction=direction, skill=lambda step: skill)
    assert found(made)["nonfinite", "net.3"].remedy[0].sentence.startswith(first)
