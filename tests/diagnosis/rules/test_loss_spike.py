import statistics

import pytest
from helpers.histories import found, history, noise

from lightning_gradtools.diagnosis.rules.loss_spike import spikes


def learning(step):
    return 0.5 + 1.8 * 0.95**step + 0.02 * noise(step)


def spiking(*steps, height=5.0, loss=learning):
    return history(loss=lambda step: loss(step) + (height if step in steps else 0.0), steps=300)


def spike(made):
    return found(made).get(("loss_spike", ""))


def test_a_loss_is_compared_with_those_before_it():
    losses = [(step, noise(step)) for step in range(200)]
    before = [loss for _, loss in losses[52:180]]
    mean, deviation = statistics.fmean(before), statistics.pstdev(before)
    for height, count in ((5.9, 0), (6.1, 1)):
        losses[180] = 180, mean + height * deviation
        assert len(spikes(losses)) == count
    (one,) = spikes(losses)
    assert (one.step, one.count, one.loss) == (180, 1, losses[180][1])
    assert one.height == pytest.approx(6.1)
    assert one.level == pytest.approx(statistics.median(before[-10:]))


def test_steps_close_together_are_one_spike_and_do_not_hide_one_another():
    losses = [(step, noise(step) + (100.0 if 150 <= step < 157 or step == 180 else 0.0)) for step in range(200)]
    assert [(each.step, each.count) for each in spikes(losses)] == [(150, 7), (180, 1)]


def test_before_half_a_window_nothing_sticks_out():
    assert spikes([(step, 1e3 * (step == 40)) for step in range(60)]) == []
    assert spikes([]) == []


def test_one_batch_unlike_the_others_is_worth_an_info():
    finding = spike(spiking(250))
    assert str(finding.severity) == "info"
    assert finding.evidence[1].value == pytest.approx(1 / 128)


def test_spikes_that_a_run_gets_over_are_worth_an_info():
    assert str(spike(spiking(200, 220, 240, 260)).severity) == "info"


def test_spikes_after_which_the_loss_stays_higher_are_a_warning():
    made = spiking(200, 220, 240, loss=lambda step: learning(step) + (0.4 if step > 200 else 0.0))
    finding = spike(made)
    assert str(finding.severity) == "warning"
    assert finding.evidence[2].value == pytest.approx(0.4 / 1.8, rel=0.1)


def test_what_is_lost_is_measured_by_what_was_learned():
    """At a loss of 1e-3 noise is large beside the loss, and small beside the 2.3 that it came from."""

    def converged(step):
        return 1e-3 * (1 + 0.3 * noise(step)) * (1 if step < 200 else 3) + 2.3 * 0.8**step

    assert str(spike(spiking(201, 220, 240, height=0.05, loss=converged)).severity) == "info"


def test_spikes_of_long_ago_and_noise_are_none():
    assert spike(spiking(100)) is None
    assert spike(history(steps=300)) is None
    assert spike(history(loss=lambda step: 1.0, steps=300)) is None
