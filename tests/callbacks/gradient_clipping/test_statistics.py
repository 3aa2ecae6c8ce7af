import torch
from helpers.clipping_cases import trained
from helpers.runs import batches
from torch.overrides import TorchFunctionMode

from lightning_gradtools.callbacks import GradientClipping
from lightning_gradtools.callbacks.gradient_clipping.statistics import Clipped, ClippingTally


def test_the_rate_is_that_of_the_latest_hundred_steps_though_nothing_was_read(reading_is_expensive):
    # steps 0 to 74 have targets, and so gradients, a thousand times as large
    data = [(x, 1e3 * y if index < 75 else y) for index, (x, y) in enumerate(batches(150))]
    clipping = GradientClipping(40.0)
    trained(clipping, data=data, log_every_n_steps=0)
    clipped = clipping.state_dict()["tallies"]["0"]["clipped"]
    assert clipped == [True] * 25 + [False] * 75


class Reads(TorchFunctionMode):
    """Counts what makes the host wait for a device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += func in (torch.Tensor.tolist, torch.Tensor.item, torch.Tensor.__bool__, torch.Tensor.__float__)
        return func(*args, **(kwargs or {}))


def test_all_that_waits_on_the_device_is_read_in_one_transfer():
    tally = ClippingTally()
    for step in range(3):
        tally.take([Clipped(torch.tensor(0.25 * (step + 2)), torch.tensor(3.0, dtype=torch.float64))])
        tally.verdicts.append((step, torch.tensor(step == 1)))
    with Reads() as reads:
        scalars = tally.scalars()
        tally.scalars()
    assert reads.count == 1
    assert scalars == {"skipped_steps": 1, "coefficient": 1.0, "rate": 2 / 3, "threshold": 3.0}
    assert (tally.last_good_step, tally.consecutive_skips) == (2, 0)
