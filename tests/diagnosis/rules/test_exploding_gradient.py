import math

from helpers.histories import falling, history, layers, serious


def test_a_loss_that_runs_away():
    made = history(loss=lambda step: 2.3 * 1.1**step, skill=lambda step: 1 - 1.1**step)
    assert any(kind == "exploding_gradient" for kind, _ in serious(made))


def test_a_high_first_loss_that_comes_down_is_not():
    made = history(loss=lambda step: 300 * math.exp(-step / 15), skill=lambda step: 1 - 130 * math.exp(-step / 15))
    assert not serious(made)


def test_a_loss_above_the_baseline_that_falls_from_the_first_step_on_is_not():
    def loss(step):  # as a U-Net's with a Dice loss: steep, then steady, so that eleven of them have no clear trend
        return 1.47 + 0.45 * math.exp(-step) - 0.013 * step

    for steps in (11, 16, 21, 40):
        made = history(loss=loss, skill=lambda step: 1 - loss(step) / 0.35, steps=steps, every=5)
        assert not serious(made), steps
    for steps, sick in ((21, False), (61, True)):  # weights from elsewhere may begin so
        stuck = history(loss=lambda s: 1.0, skill=lambda s: -1.86, steps=steps, every=5)
        assert any(kind == "exploding_gradient" for kind, _ in serious(stuck)) == sick
    risen = history(loss=lambda s: 1.0 if s else 0.3, skill=lambda s: -1.86 if s else 0.0, steps=21, every=5)
    assert any(kind == "exploding_gradient" for kind, _ in serious(risen))


def test_one_outlier_is_not():
    made = history(
        loss=lambda step: 500.0 if step == 90 else falling(step),
        skill=lambda step: -200.0 if step == 90 else 1 - falling(step) / 2.3,
    )
    assert not serious(made)


def test_a_profile_that_grows_backward():
    made = history(seen=lambda step: layers([1e5, 1e4, 1e3, 1e2, 10, 1]))
    assert ("exploding_gradient", "0") in serious(made)
    assert ("exploding_gradient", "0") not in serious(
        history(loss=falling, seen=lambda step: layers([1e5, 1e4, 1e3, 1e2, 10, 1]))
    )


def test_a_jump_twice_running_is_told_at_once():
    made = history(loss=lambda s: 2.3 * 40**s, skill=lambda s: 1 - 40.0**s, steps=3, every=1)
    assert any(kind == "exploding_gradient" for kind, _ in serious(made))
    assert not serious(history(loss=lambda s: 2.3, skill=lambda s: -30.0 if s == 1 else 0.0, steps=3, every=1))
