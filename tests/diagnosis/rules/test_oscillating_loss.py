from helpers.histories import history, noise, serious


def test_alternating_losses():
    made = history(loss=lambda step: 2.3 + (-1) ** step, skill=lambda s: 0.3)
    assert serious(made) == {("oscillating_loss", "")}


def test_jumping_about_above_the_baseline():
    made = history(loss=lambda step: 6 + 3 * noise(step), skill=lambda s: -1.0)
    assert ("oscillating_loss", "") in serious(made)


def test_noise_of_any_size_is_no_oscillation():
    for shift in range(100):

        def loss(step, shift=shift):
            return 2.3 + 2 * noise(step + 999 * shift)

        assert not serious(history(loss=loss, skill=lambda step, loss=loss: 1 - loss(step) / 3.3))
