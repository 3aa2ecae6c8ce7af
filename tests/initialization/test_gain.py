import math

import pytest
import torch
import torch.nn.functional as F

from lightning_gradtools.initialization import activation_gain


@pytest.mark.parametrize(
    ("activation", "gain"),
    [
        (lambda z: z, 1.0),
        (torch.relu, math.sqrt(2)),
        (lambda z: F.leaky_relu(z, 0.2), math.sqrt(2 / (1 + 0.2**2))),
        (torch.abs, 1.0),
        (torch.sign, 1.0),
        # E[erf(z)^2] = 2/pi asin(2/3), by the arc-sine kernel of Williams 1997
        (torch.erf, 1 / math.sqrt(2 / math.pi * math.asin(2 / 3))),
        (F.selu, 1.0),  # the fixed point that Klambauer et al. 2017 built it for
        (lambda z: z * 0, 1.0),
    ],
)
def test_closed_forms(activation, gain):
    assert activation_gain(activation) == pytest.approx(gain, rel=1e-6)


def test_an_in_place_activation_does_no_harm():
    assert activation_gain(torch.nn.ReLU(inplace=True)) == pytest.approx(math.sqrt(2))
