import pytest
from helpers.histories import decaying, falling, found, history, layers, noise, serious

from lightning_gradtools.diagnosis import Severity


def test_a_gradient_that_shrinks_layer_by_layer_while_the_loss_stands():
    key = ("vanishing_gradient", "0")
    finding = found(history(seen=decaying(0.3)))[key]
    assert finding.severity == Severity.WARNING
    assert finding.evidence[0].value == pytest.approx(0.3**7)
    assert finding.evidence[1].value == pytest.approx(0.3)
    assert found(history(seen=decaying(0.1)))[key].severity == Severity.CRITICAL


def test_no_harm_no_warning():
    assert ("vanishing_gradient", "0") not in serious(history(loss=falling, seen=decaying(0.3)))
    learned = history(loss=lambda step: 0.01 + 0.001 * noise(step), skill=lambda step: 0.99, seen=decaying(0.3))
    assert not serious(learned)


def test_small_gradients_everywhere_are_not_vanishing():
    tiny = history(seen=lambda step: layers([1e-12] * 8))
    assert ("vanishing_gradient", "0") not in found(tiny)


def test_not_while_the_rate_warms_up():
    assert not serious(history(seen=decaying(0.3), rate=lambda step: step / 1000))


def test_the_first_trained_layer_counts_behind_frozen_ones():
    def seen(step):
        return (*layers([1e-9, 1e-9], trainable=False), *layers([None, None, 1.0, 1.0, 1.0, 1.0, 1.0])[2:])

    assert ("vanishing_gradient", "0") not in found(history(seen=seen))
