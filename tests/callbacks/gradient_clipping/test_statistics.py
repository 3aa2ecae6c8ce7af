from helpers.clipping_cases import trained
from helpers.runs import batches

from lightning_gradtools.callbacks import GradientClipping


def test_the_rate_is_that_of_the_latest_hundred_steps_though_nothing_was_read(reading_is_expensive):
    # steps 0 to 74 have targets, and so gradients, a thousand times as large
    data = [(x, 1e3 * y if index < 75 else y) for index, (x, y) in enumerate(batches(150))]
    clipping = GradientClipping(40.0)
    trained(clipping, data=data, log_every_n_steps=0)
    clipped = clipping.state_dict()["tallies"]["0"]["clipped"]
    assert clipped == [True] * 25 + [False] * 75
