"""Each rule on made-up numbers: what it is to find, and what it must not take for it."""

import math
from dataclasses import replace

import pytest
from histories import falling, history, layers, noise

from lightning_gradtools.diagnosis import Kind, Severity
from lightning_gradtools.diagnosis.observation import ActivationObservation, NonfiniteEvent
from lightning_gradtools.diagnosis.rules import diagnose


def found(made):
    return {(str(each.kind), each.layer): each for each in diagnose(made)}


def serious(made):
    return {key for key, each in found(made).items() if each.severity >= Severity.WARNING}


def decaying(gain, depth=8):
    return lambda step: layers([gain ** (depth - i) for i in range(depth)])


class TestVanishing:
    def test_a_gradient_that_shrinks_layer_by_layer_while_the_loss_stands(self):
        key = ("vanishing_gradient", "0")
        finding = found(history(seen=decaying(0.3)))[key]
        assert finding.severity == Severity.WARNING
        assert finding.evidence[0].value == pytest.approx(0.3**7)
        assert finding.evidence[1].value == pytest.approx(0.3)
        assert found(history(seen=decaying(0.1)))[key].severity == Severity.CRITICAL

    def test_no_harm_no_warning(self):
        assert ("vanishing_gradient", "0") not in serious(history(loss=falling, seen=decaying(0.3)))
        learned = history(loss=lambda step: 0.01 + 0.001 * noise(step), skill=lambda step: 0.99, seen=decaying(0.3))
        assert not serious(learned)

    def test_small_gradients_everywhere_are_not_vanishing(self):
        tiny = history(seen=lambda step: layers([1e-12] * 8))
        assert ("vanishing_gradient", "0") not in found(tiny)

    def test_not_while_the_rate_warms_up(self):
        assert not serious(history(seen=decaying(0.3), rate=lambda step: step / 1000))

    def test_the_first_trained_layer_counts_behind_frozen_ones(self):
        def seen(step):
            return (*layers([1e-9, 1e-9], trainable=False), *layers([None, None, 1.0, 1.0, 1.0, 1.0, 1.0])[2:])

        assert ("vanishing_gradient", "0") not in found(history(seen=seen))


class TestExploding:
    def test_a_loss_that_runs_away(self):
        made = history(loss=lambda step: 2.3 * 1.1**step, skill=lambda step: 1 - 1.1**step)
        assert any(kind == "exploding_gradient" for kind, _ in serious(made))

    def test_a_high_first_loss_that_comes_down_is_not(self):
        made = history(loss=lambda step: 300 * math.exp(-step / 15), skill=lambda step: 1 - 130 * math.exp(-step / 15))
        assert not serious(made)

    def test_one_outlier_is_not(self):
        made = history(
            loss=lambda step: 500.0 if step == 90 else falling(step),
            skill=lambda step: -200.0 if step == 90 else 1 - falling(step) / 2.3,
        )
        assert not serious(made)

    def test_a_profile_that_grows_backward(self):
        made = history(seen=lambda step: layers([1e5, 1e4, 1e3, 1e2, 10, 1]))
        assert ("exploding_gradient", "0") in serious(made)
        assert ("exploding_gradient", "0") not in serious(
            history(loss=falling, seen=lambda step: layers([1e5, 1e4, 1e3, 1e2, 10, 1]))
        )

    def test_a_jump_twice_running_is_told_at_once(self):
        made = history(loss=lambda s: 2.3 * 40**s, skill=lambda s: 1 - 40.0**s, steps=3, every=1)
        assert any(kind == "exploding_gradient" for kind, _ in serious(made))
        assert not serious(history(loss=lambda s: 2.3, skill=lambda s: -30.0 if s == 1 else 0.0, steps=3, every=1))


class TestActivations:
    @pytest.mark.parametrize(
        ("dead", "severity"),
        [(5, None), (20, "info"), (50, "info"), (51, "warning"), (94, "warning"), (95, "critical")],
    )
    def test_dead_units_by_their_share(self, dead, severity):
        made = history(loss=falling, activations=lambda s: (ActivationObservation("a", "relu", 100, dead),))
        finding = found(made).get(("dead_relu", "a"))
        assert (finding and str(finding.severity)) == severity

    def test_silent_on_one_batch_is_not_dead(self):
        made = history(loss=falling, activations=lambda s: (ActivationObservation("a", "relu", 100, 0, silent=99),))
        assert not found(made)

    def test_saturation_with_and_without_harm(self):
        def activations(step):
            return (ActivationObservation("a", "tanh", 10, saturated=6, samples=1000),)

        assert ("saturated_activation", "a") in serious(history(activations=activations))
        assert not serious(history(loss=falling, activations=activations))

    def test_an_output_may_saturate(self):
        def activations(step):
            return (ActivationObservation("a", "sigmoid", 10, saturated=10, samples=999, hidden=False),)

        assert not found(history(loss=falling, activations=activations))
        assert ("saturated_activation", "a") in serious(history(activations=activations))


class TestNoGradient:
    def test_exactly_zero_or_none_again_and_again(self):
        for gradient in (0.0, None):
            made = history(
                loss=falling, seen=lambda s, g=gradient: (*layers([None], gradient=g), *layers([1.0] * 3)[1:])
            )
            assert serious(made) == {("no_gradient", "0")}

    @pytest.mark.parametrize(
        "settings", [{"gradient": 1e-30}, {"gradient": 0.0, "trainable": False}], ids=["tiny", "frozen"]
    )
    def test_tiny_and_frozen_are_something_else(self, settings):
        made = history(loss=falling, seen=lambda s: (*layers([None], **settings), *layers([1.0] * 3)[1:]))
        assert not found(made)

    def test_zero_in_the_first_steps_only(self):
        made = history(
            loss=falling, seen=lambda s: (*layers([1.0], gradient=0.0 if s < 30 else 1.0), *layers([1.0] * 3)[1:])
        )
        assert not found(made)


class TestLoss:
    def test_alternating_losses(self):
        made = history(loss=lambda step: 2.3 + (-1) ** step, skill=lambda s: 0.3)
        assert serious(made) == {("oscillating_loss", "")}

    def test_jumping_about_above_the_loss_of_guessing(self):
        made = history(loss=lambda step: 6 + 3 * noise(step), skill=lambda s: -1.0)
        assert ("oscillating_loss", "") in serious(made)

    def test_noise_of_any_size_is_no_oscillation(self):
        for shift in range(100):

            def loss(step, shift=shift):
                return 2.3 + 2 * noise(step + 999 * shift)

            assert not serious(history(loss=loss, skill=lambda step, loss=loss: 1 - loss(step) / 3.3))

    def test_no_better_than_guessing_and_not_moving(self):
        assert serious(history(skill=lambda step: 0.01)) == {("stalled_training", "")}

    def test_converged_is_not_stalled(self):
        assert not serious(history(loss=lambda step: 1e-6 * (2 + noise(step)), skill=lambda step: 0.999))

    def test_still_warming_up_is_not_stalled(self):
        assert not serious(history(skill=lambda step: 0.01, rate=lambda step: step / 1e4))


def test_a_stall_with_a_cause_points_to_it():
    def first_remedy(made):
        return found(made)["stalled_training", ""].remedy[0].sentence

    assert "other findings" in first_remedy(history(seen=decaying(0.1)))
    assert "other findings" not in first_remedy(history())


class TestStalled:
    def planned(self, steps=100, **settings):
        made = history(every=5, **settings)
        made.planned_steps = steps
        return made

    def test_weights_that_cannot_get_anywhere(self):
        def seen(step, slow=1e-9, fast=1e-9):
            still = layers([1.0] * 2, update=slow)
            return (*[replace(each, name=f"net.slow.{each.name}") for each in still], *layers([1.0] * 2, update=fast))

        stands = found(self.planned(loss=falling, seen=seen))["stalled_training", ""]
        assert "1.0e-07 of themselves in all 100 steps" in stands.message
        partly = self.planned(loss=falling, seen=lambda step: seen(step, fast=1e-2))
        assert serious(partly) == {("stalled_training", "net.slow")}
        assert "Raise the learning rate" in found(partly)["stalled_training", "net.slow"].remedy[0].sentence
        assert not serious(self.planned(loss=falling, seen=lambda step: seen(step, 1e-2 if step == 0 else 0.0, 1e-2)))
        assert not serious(history(loss=falling, every=5, seen=seen)), "the run has no end that is known"

    def test_a_learning_rate_that_fades_before_anything_is_learned(self):
        def rate(step):
            return 0.1 * 0.3**step

        early = self.planned(1000, skill=lambda step: 0.2, rate=rate)
        assert "has faded" in found(early)["stalled_training", ""].message
        assert not serious(self.planned(300, skill=lambda step: 0.2, rate=rate)), "a third of the run is over"
        assert not serious(self.planned(1000, skill=lambda step: 0.6, rate=rate))

    def test_half_of_the_run_for_next_to_nothing(self):
        def slowly(steps, learned):
            def loss(step):
                return 2.3 * (1 - learned * step / 100)

            return self.planned(steps, loss=loss, skill=lambda step: 1 - loss(step) / 2.3)

        assert "after 83% of the run" in found(slowly(120, 0.07))["stalled_training", ""].message
        assert not serious(slowly(300, 0.07))
        assert not serious(slowly(120, 0.15))


class TestSaturation:
    def saturated(self, share, function="tanh", loss=falling, skill=lambda step: 0.6):
        def activations(step):
            return (ActivationObservation("act", function, 100, saturated=round(100 * share), samples=1000),)

        made = history(loss=loss, skill=skill, activations=activations)
        return {each.severity for (kind, _), each in found(made).items() if kind == "saturated_activation"}

    def test_half_of_a_layer_is_worth_a_warning_only_where_nothing_is_learned(self):
        assert self.saturated(0.6) == {Severity.INFO}
        assert self.saturated(0.6, skill=lambda step: 0.0, loss=lambda step: 2.3) == {Severity.WARNING}
        assert self.saturated(0.97, skill=lambda step: 0.0, loss=lambda step: 2.3) == {Severity.CRITICAL}

    def test_nearly_all_of_a_layer_blocks_it_until_all_is_learned(self):
        assert self.saturated(0.85) == {Severity.WARNING}
        assert self.saturated(0.85, skill=lambda step: 0.95) == {Severity.INFO}
        assert self.saturated(0.85, function="softmax") == {Severity.INFO}


class TestInitialization:
    def test_units_that_are_all_alike(self):
        made = history(every=1, steps=20, seen=lambda s: layers([1.0] * 3, identical=True))
        assert found(made)["poor_initialization", "0"].severity == Severity.CRITICAL

    def test_alike_at_first_only_is_healthy(self):
        made = history(loss=falling, every=1, steps=20, seen=lambda s: layers([1.0] * 3, identical=s == 0))
        assert not found(made)

    def test_a_signal_that_dies_out(self):
        def seen(step):
            return tuple(layers([1.0] * 4, signal=0.01**i)[i] for i in range(4))

        assert ("poor_initialization", "3") in serious(history(every=2, seen=seen))
        assert not serious(history(loss=falling, every=2, seen=seen))


def test_nonfinite_says_where_until_it_is_over():
    made = history(loss=falling, steps=30)
    made.nonfinite.append(NonfiniteEvent(20, 4, 1, "forward", "net.3"))
    made.last_nonfinite = 22
    finding = found(made)["nonfinite", "net.3"]
    assert (finding.kind, finding.step, finding.severity) == (Kind.NONFINITE, 20, Severity.CRITICAL)
    made.losses.append((90, 0.1))
    assert not found(made)


def test_a_healthy_history_yields_nothing():
    assert not found(history(loss=falling))


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_no_verdict_depends_on_the_scale_of_the_loss(scale):
    for loss in (falling, lambda step: 2.3 + (-1) ** step, lambda step: 2.3 + 0.02 * noise(step)):
        for gain in (0.3, 1.0):
            plain = history(loss=loss, seen=decaying(gain))
            scaled = history(
                loss=lambda s, loss=loss: scale * loss(s),
                seen=lambda s, gain=gain: layers([scale * gain ** (8 - i) for i in range(8)], gradient=scale),
            )
            assert {key: f.severity for key, f in found(scaled).items()} == {
                key: f.severity for key, f in found(plain).items()
            }
