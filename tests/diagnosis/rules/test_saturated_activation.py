from helpers.histories import falling, found, history, serious

from lightning_gradtools.diagnosis import Severity
from lightning_gradtools.diagnosis.observation import ActivationObservation


def saturated(share, function="tanh", loss=falling, skill=lambda step: 0.6):
    def activations(step):
        return (ActivationObservation("act", function, 100, saturated=round(100 * share), samples=1000),)

    made = history(loss=loss, skill=skill, activations=activations)
    return {each.severity for (kind, _), each in found(made).items() if kind == "saturated_activation"}


def test_half_of_a_layer_is_worth_a_warning_only_where_nothing_is_learned():
    assert saturated(0.6) == {Severity.INFO}
    assert saturated(0.6, skill=lambda step: 0.0, loss=lambda step: 2.3) == {Severity.WARNING}
    assert saturated(0.97, skill=lambda step: 0.0, loss=lambda step: 2.3) == {Severity.CRITICAL}


def test_nearly_all_of_a_layer_blocks_it_until_all_is_learned():
    assert saturated(0.85) == {Severity.WARNING}
    assert saturated(0.85, skill=lambda step: 0.95) == {Severity.INFO}
    assert saturated(0.85, function="softmax") == {Severity.INFO}


def test_saturation_with_and_without_harm():
    def activations(step):
        return (ActivationObservation("a", "tanh", 10, saturated=6, samples=1000),)

    assert ("saturated_activation", "a") in serious(history(activations=activations))
    assert not serious(history(loss=falling, activations=activations))


def test_an_output_may_saturate():
    def activations(step):
        return (ActivationObservation("a", "sigmoid", 10, saturated=10, samples=999, hidden=False),)

    assert not found(history(loss=falling, activations=activations))
    assert ("saturated_activation", "a") in serious(history(activations=activations))
