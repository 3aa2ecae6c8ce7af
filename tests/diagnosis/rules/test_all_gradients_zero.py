from helpers.histories import found, history, layers

from lightning_gradtools.diagnosis.observation import ActivationObservation


def zeros(step):
    return layers([0.0] * 4, gradient=0.0, update=0.0)


def test_from_the_second_sample_on_and_nothing_else():
    findings = found(history(seen=zeros, steps=41, skill=lambda step: -30.0 if step else -0.5))
    assert findings["no_gradient", ""].evidence[0].steps == 41
    assert findings["no_gradient", ""].severity == "critical"
    assert "while the loss is 2.2" in findings["no_gradient", ""].message
    assert not {kind for kind, _ in findings} & {"exploding_gradient", "stalled_training"}
    assert "no_gradient" not in {kind for kind, _ in found(history(seen=zeros, steps=10))}


def test_without_a_loss_it_takes_longer():
    def of(samples):
        made = history(seen=zeros, steps=10 * samples - 9)
        made.losses, made.first_losses = [], []
        return {kind for kind, _ in found(made)}

    assert "no_gradient" in of(4)
    assert "no_gradient" not in of(3)


def test_one_that_is_not_zero_and_a_loss_that_is():
    assert ("no_gradient", "") not in found(history(seen=lambda step: (*zeros(step)[:3], *layers([1e-30] * 4)[3:])))
    assert ("no_gradient", "") not in found(history(seen=zeros, loss=lambda step: 0.0))
    assert ("no_gradient", "") not in found(history(seen=lambda step: layers([None] * 4, gradient=None)))


def test_units_that_are_all_dead_say_so_themselves():
    dead = (ActivationObservation("1", "relu", 8, dead=8, never_fired=8, silent=8, samples=999),)
    findings = found(history(seen=zeros, activations=lambda step: dead))
    assert ("dead_relu", "1") in findings
    assert ("no_gradient", "") not in findings
