"""nflows: a normalizing flow, trained by the likelihood of points."""

from typing import Any

import lightning.pytorch as pl
import torch
from nflows.distributions import StandardNormal
from nflows.flows import Flow
from nflows.transforms import CompositeTransform, MaskedAffineAutoregressiveTransform, ReversePermutation
from torch import Tensor, nn

from projects.recipe import INPUTS, Recipe, Setting, batches, train


def loss(model: nn.Module, batch: Any) -> Tensor:
    likelihood: Tensor = model.log_prob(batch[0])  # type: ignore[operator]
    return -likelihood.mean()


def fit(setting: Setting) -> pl.LightningModule:
    angles = 3.14 * torch.rand(512)
    points = torch.stack([angles.cos(), angles.sin()], 1) + 0.1 * torch.randn(512, 2)
    layers: list[nn.Module] = []
    for _ in range(3):
        layers += [ReversePermutation(2), MaskedAffineAutoregressiveTransform(2, hidden_features=32)]
    model = Flow(CompositeTransform(layers), StandardNormal([2]))
    return train(setting, model, loss, batches(setting.inputs(points), size=64), steps=150)


RECIPES = {"nflows flow": Recipe(package="nflows", sickness=INPUTS, fit=fit)}
