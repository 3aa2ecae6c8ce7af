from dataclasses import replace

from helpers.histories import falling, found, history, layers, noise, serious


def test_no_better_than_a_constant_and_not_moving():
    assert serious(history(skill=lambda step: 0.01)) == {("stalled_training", "")}


def test_converged_is_not_stalled():
    assert not serious(history(loss=lambda step: 1e-6 * (2 + noise(step)), skill=lambda step: 0.999))


def test_still_warming_up_is_not_stalled():
    assert not serious(history(skill=lambda step: 0.01, rate=lambda step: step / 1e4))


def planned(steps=100, **settings):
    made = history(every=5, **settings)
    made.planned_steps = steps
    return made


def test_weights_that_cannot_get_anywhere():
    def seen(step, slow=1e-9, fast=1e-9):
        still = layers([1.0] * 2, update=slow)
        return (*[replace(each, name=f"net.slow.{each.name}") for each in still], *layers([1.0] * 2, update=fast))

    stands = found(planned(loss=falling, seen=seen))["stalled_training", ""]
    assert "1.0e-07 of themselves in all 100 steps" in stands.message
    partly = planned(loss=falling, seen=lambda step: seen(step, fast=1e-2))
    assert serious(partly) == {("stalled_training", "net.slow")}
    assert "Raise the learning rate" in found(partly)["stalled_training", "net.slow"].remedy[0].sentence
    assert not serious(planned(loss=falling, seen=lambda step: seen(step, 1e-2 if step == 0 else 0.0, 1e-2)))
    assert not serious(history(loss=falling, every=5, seen=seen)), "the run has no end that is known"


def test_a_learning_rate_that_fades_before_anything_is_learned():
    def rate(step):
        return 0.1 * 0.3**step

    early = planned(1000, skill=lambda step: 0.2, rate=rate)
    assert "has faded" in found(early)["stalled_training", ""].message
    assert not serious(planned(300, skill=lambda step: 0.2, rate=rate)), "a third of the run is over"
    assert not serious(planned(1000, skill=lambda step: 0.6, rate=rate))


def test_half_of_the_run_for_next_to_nothing():
    def slowly(steps, learned):
        def loss(step):
            return 2.3 * (1 - learned * step / 100)

        return planned(steps, loss=loss, skill=lambda step: 1 - loss(step) / 2.3)

    assert "after 83% of the run" in found(slowly(120, 0.07))["stalled_training", ""].message
    assert not serious(slowly(300, 0.07))
    assert not serious(slowly(120, 0.15))


def test_where_the_baseline_is_not_known_it_is_said_of_the_start_and_as_an_info():
    stands = found(history(skill=None))["stalled_training", ""]
    assert stands.severity == "info"
    assert "where it began" in stands.message
    assert "constant prediction" not in stands.message
