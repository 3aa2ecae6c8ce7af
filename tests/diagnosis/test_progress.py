import math

import pytest
from histories import falling, history, noise

from lightning_gradtools.diagnosis.progress import progress


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


def test_skill_is_the_measure_where_it_is_known():
    going = progress(history(loss=lambda step: 100.0 - step, skill=lambda step: -0.5))
    assert going.gain == -0.5


def test_too_little_is_known_before_ten_losses():
    assert progress(history(steps=9)) is None
