"""Cutoffs against the functions' own derivatives."""

import pytest
import torch
import torch.nn.functional as F

from lightning_gradtools.activations.flat_regions import FLAT_BELOW, FLAT_BEYOND


def slope(function, x):
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(x).sum(), x)
    return gradient.abs()


@pytest.mark.parametrize("name", FLAT_BELOW)
def test_below_the_cutoff_the_slope_is_under_two_percent_and_not_far_above_it_it_is_not(name):
    function, cutoff = getattr(F, name), FLAT_BELOW[name]
    assert slope(function, torch.linspace(cutoff - 20, cutoff - 1e-3, 1000, dtype=torch.float64)).max() <= 0.04
    assert slope(function, torch.linspace(cutoff, cutoff + 1.5, 1000, dtype=torch.float64)).max() > 0.02


@pytest.mark.parametrize("name", ["tanh", "sigmoid"])
def test_beyond_the_distance_the_slope_is_under_two_percent_of_the_largest(name):
    function = getattr(torch, name)
    x = torch.linspace(-20, 20, 100_001, dtype=torch.float64)
    centre, distance = FLAT_BEYOND[name]
    flat = (function(x) - centre).abs() > distance
    relative = slope(function, x) / slope(function, x).max()
    assert relative[flat].max() == pytest.approx(0.02, abs=2e-3)
    assert relative[~flat].min() == pytest.approx(0.02, abs=2e-3)
