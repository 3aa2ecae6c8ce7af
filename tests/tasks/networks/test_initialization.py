import math

import pytest
import torch
from torch import nn

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.tasks.networks.initialization import initialize_

FAN_IN, FAN_OUT = 300, 500


def initialized(name, scale=1.0, layer=None):
    torch.manual_seed(0)
    network = nn.Sequential(layer or nn.Linear(FAN_IN, FAN_OUT), nn.LayerNorm(FAN_OUT))
    initialize_(network, name, scale)
    return network


@pytest.mark.parametrize(
    ("name", "variance"),
    [("he", 2 / FAN_IN), ("xavier", 2 / (FAN_IN + FAN_OUT)), ("default", 1 / (3 * FAN_IN))],
)
def test_variance(name, variance):
    weight = initialized(name)[0].weight
    # The standard error of a variance over 150,000 numbers is 0.4 %.
    assert weight.var().item() == pytest.approx(variance, rel=0.02)
    assert abs(weight.mean().item()) < 5 * math.sqrt(variance / weight.numel())


def test_a_convolutions_fan_in_counts_its_kernel():
    weight = initialized("he", layer=nn.Conv2d(64, 128, 3))[0].weight
    assert weight.var().item() == pytest.approx(2 / (64 * 9), rel=0.03)


def test_orthogonal():
    weight = initialized("orthogonal")[0].weight  # (500, 300): orthonormal columns
    torch.testing.assert_close(weight.T @ weight, torch.eye(FAN_IN), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["he", "xavier", "orthogonal"])
def test_biases_start_at_zero_and_norms_are_left_alone(name):
    linear, norm = initialized(name, scale=3)
    assert not linear.bias.any()
    assert torch.equal(norm.weight, torch.ones(FAN_OUT))


def test_default_is_torchs_own():
    torch.manual_seed(0)
    layer = nn.Linear(FAN_IN, FAN_OUT)
    weight, bias = initialized("default")[0].parameters()
    assert torch.equal(weight, layer.weight)
    assert torch.equal(bias, layer.bias)


@pytest.mark.parametrize("name", ["default", "he", "xavier", "orthogonal"])
def test_scale_multiplies_the_weights(name):
    torch.testing.assert_close(initialized(name, scale=2.5)[0].weight, 2.5 * initialized(name)[0].weight)


def test_bad_arguments():
    with pytest.raises(ArgumentError, match=r"^init='hee': must be one of default, he, .*did you mean 'he'"):
        initialized("hee")
    with pytest.raises(ArgumentError, match=r"^init_scale=-1: must be a finite number >= 0"):
        initialized("he", scale=-1)
