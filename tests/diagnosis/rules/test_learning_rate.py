"""Rates that are too high and too low, by the updates and by what becomes of the loss."""

import math

import pytest
from helpers.histories import falling, found, history, layers, noise, serious

from lightning_gradtools.diagnosis import Kind
from lightning_gradtools.diagnosis.finding import Change
from lightning_gradtools.diagnosis.observation import ActivationObservation, NonfiniteEvent
from lightning_gradtools.diagnosis.rules import diagnose

HIGH, LOW = ("learning_rate_too_high", ""), ("learning_rate_too_low", "")


def steps_of(ratio, **settings):
    return lambda step: layers([1.0] * 4, weight=2.0, update=2.0 * ratio, **settings)


def planned(made, steps):
    made.planned_steps = steps
    return made


def stuck(step):
    return 2.3 + 0.02 * noise(step)


def test_long_first_steps_are_a_fault_where_nothing_is_learned():
    assert HIGH in serious(history(loss=stuck, seen=steps_of(0.2)))
    assert HIGH not in serious(history(loss=falling, seen=steps_of(0.2)))
    assert HIGH not in serious(history(loss=stuck, seen=steps_of(0.05)))


def test_a_loss_that_stands_above_its_own_beginning_is_a_failure_whatever_was_learned():
    made = history(loss=lambda step: (1.0 if step < 5 else 2.0) + 0.01 * noise(step), seen=steps_of(0.2))
    message = found(made)[HIGH].message
    assert "times what it began with" in message
    assert "the learning rate of 0.1 is too high" in message


@pytest.mark.parametrize(("level", "steps", "sick"), [(2.0, 30, False), (2.0, 70, True), (4.0, 30, True)])
def test_a_small_rise_may_be_the_noise_of_batches_at_first(level, steps, sick):
    def loss(step):
        return (1.0 if step < 5 else level) + 0.01 * noise(step)

    assert (HIGH in serious(history(loss=loss, steps=steps, seen=steps_of(0.2), skill=lambda step: 0.5))) == sick


def test_first_steps_are_those_that_count():
    late = history(loss=stuck, seen=lambda step: steps_of(0.001 if step < 60 else 0.5)(step))
    assert HIGH not in serious(late)


@pytest.mark.parametrize(("before", "after", "sick"), [(0, 28, True), (28, 28, False), (0, 3, False)])
def test_shorter_ones_are_the_cause_where_units_have_died_since(before, after, sick):
    def relu(step):
        return (ActivationObservation("a", "relu", units=32, dead=after if step > 20 else before, samples=999),)

    made = history(loss=stuck, seen=steps_of(0.05), activations=relu)
    assert (HIGH in serious(made)) == sick


def test_a_nan_is_blamed_on_the_rate_only_where_steps_had_been_long():
    for ratio, direction, blamed in ((0.3, "forward", True), (0.001, "forward", False), (0.3, "input data", False)):
        made = history(loss=falling, steps=30, seen=steps_of(ratio))
        made.nonfinite.append(NonfiniteEvent(30, 30, 0, direction, "net.0"))
        made.last_nonfinite = 30
        kinds = [each.kind for each in diagnose(made)]
        assert (Kind.LEARNING_RATE_TOO_HIGH in kinds) == blamed
        assert Kind.NONFINITE in kinds


def test_the_remedy_has_the_rate_at_hand_and_goes_further_where_steps_were_longer():
    for ratio, value in ((0.2, 0.01), (20.0, 0.001)):
        remedy = found(history(loss=stuck, seen=steps_of(ratio)))[HIGH].remedy[0]
        assert (remedy.change, remedy.value) == (Change.LOWER_LEARNING_RATE, pytest.approx(value))


def test_a_plateau_at_the_start_is_no_failure_yet():
    assert HIGH not in serious(history(loss=stuck, steps=50, seen=steps_of(0.2)))


def test_a_warm_up_is_no_failure_yet():
    assert HIGH not in serious(history(loss=stuck, seen=steps_of(0.2), rate=lambda step: 1e-3 * (step + 1)))


def test_weights_that_would_hardly_move_in_the_whole_run():
    slow = planned(history(loss=stuck, seen=steps_of(1e-4)), 300)
    assert LOW in serious(slow)
    assert found(slow)[LOW].remedy[0].change == Change.RAISE_LEARNING_RATE
    assert LOW not in serious(planned(history(loss=stuck, seen=steps_of(1e-4)), 30_000))  # they will
    assert LOW not in serious(planned(history(loss=falling, seen=steps_of(1e-4)), 300))  # it learns all the same
    assert LOW not in serious(history(loss=stuck, seen=steps_of(1e-4)))  # nobody knows how long


def test_one_layer_that_moves_is_enough_to_clear_the_rate():
    def seen(step):
        return (*layers([1e-9] * 4, update=1e-9), *layers([1.0], update=0.01))

    assert LOW not in serious(planned(history(loss=stuck, seen=seen), 300))


def test_units_that_are_dead_are_the_reason_and_not_the_rate():
    def relu(step):
        return (ActivationObservation("a", "relu", units=32, dead=32, samples=999),)

    assert LOW not in serious(planned(history(loss=stuck, seen=steps_of(1e-4), activations=relu), 300))


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_no_verdict_depends_on_the_scale_of_loss_or_weights(scale):
    def seen(step):
        return layers([scale] * 4, gradient=scale, weight=scale, update=0.2 * scale)

    plain, scaled = history(loss=stuck, seen=steps_of(0.2)), history(loss=lambda s: scale * stuck(s), seen=seen)
    assert found(plain).keys() == found(scaled).keys()
    assert math.isclose(found(plain)[HIGH].evidence[0].value, found(scaled)[HIGH].evidence[0].value, rel_tol=1e-6)
