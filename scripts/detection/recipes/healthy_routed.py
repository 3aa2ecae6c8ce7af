"""Experts of which each sample takes few, and weights that another network makes."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from detection import data
from detection.losses import cross_entropy
from detection.methods import alone, taught
from detection.networks.routed import Blended, Hyper, Routed, RoutedEncoder
from detection.optimizers import adam, adamw
from detection.recipe import numbers


def balanced(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    output, uneven = net(x)
    return cross_entropy(output, y) + 0.05 * uneven  # type: ignore[no-any-return]


def balanced_numbers(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    output, uneven = net(x)
    return F.mse_loss(output, y) + 0.02 * uneven  # type: ignore[no-any-return]


RECIPES = [
    taught(
        "top_expert",
        lambda: Routed(64, 10, experts=6, taken=1),
        adam(5e-3),
        balanced,
        lambda net, x, y: cross_entropy(net(x)[0], y),
        data=data.digits,
    ),
    taught(
        "two_noisy_experts",
        lambda: Routed(11, 1, experts=4, taken=2, noise=1.0),
        adam(5e-3),
        balanced_numbers,
        lambda net, x, y: F.mse_loss(net(x)[0], y),
        data=data.domains,
        steps=400,
    ),
    taught(
        "routed_encoder",
        RoutedEncoder,
        adamw(5e-3),
        balanced,
        lambda net, x, y: cross_entropy(net(x)[0], y),
        data=lambda: data.first(data.digit_rows(), 192),
        batch_size=24,
        steps=150,
    ),
    alone("blended_experts", Blended, adam(5e-3), data=data.digit_rows, steps=200),
    alone("hypernetwork", lambda: Hyper(6, 4), adam(3e-3), data=data.friedman, make=numbers),
]
