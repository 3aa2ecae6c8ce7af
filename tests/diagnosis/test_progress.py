import math

import pytest
from helpers.histories import falling, history, noise

from lightning_gradtools.diagnosis.progress import patience, progress


def test_noise_around_a_level_is_no_improvement():
    for shift in range(200):
        made = history(loss=lambda step, shift=shift: 2.3 + 0.1 * noise(step + 1000 * shift))
        assert not progress(made).improving


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_falling_is_improving_at_any_scale(scale):
    going = progress(history(loss=lambda step: scale * falling(step)))
    assert going.improving
    assert going.gain == pytest.approx(progress(history(loss=falling)).gain)


def test_a_slow_fall_counts_and_the_first_transient_does_not():
    slow = progress(history(loss=lambda step: 2.3 - 0.001 * step + 0.01 * noise(step), steps=121))
    assert slow.improving
    transient = progress(history(loss=lambda step: 2.3 + 0.3 * math.exp(-step / 4) + 0.01 * noise(step), steps=61))
    assert not transient.improving
    assert transient.nothing_learned(0.2)


@pytest.mark.parametrize("scale", [1e-6, 1.0, -1.0])
def test_the_loss_of_guessing_is_the_measure_where_it_is_known(scale):
    def loss(step):
        return 100.0 - step

    going = progress(history(loss=lambda step: scale * loss(step), skill=lambda step: 1 - loss(step) / 40))
    assert going.gain == pytest.approx(1 - 5.5 / 40)  # of the last ten losses, not of the last samples


def test_perfection_from_the_start_is_known_by_its_skill_alone():
    assert progress(history(loss=lambda step: 1e-9, skill=lambda step: 0.999)).gain == 0.999


def test_too_little_is_known_before_ten_losses():
    assert progress(history(steps=9)) is None


@pytest.mark.parametrize(("planned", "steps"), [(None, 60), (100, 60), (300, 100), (1500, 500), (10**6, 1000)])
def test_a_run_may_stand_on_a_plateau_for_a_third_of_its_steps(planned, steps):
    made = history()
    made.planned_steps = planned
    assert patience(made) == steps
