"""e3nn: an equivariant network on vectors, whose weights come from a network of radii."""

from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from e3nn import nn as enn
from e3nn import o3
from torch import Tensor, nn

from projects.recipe import TARGETS, Recipe, Setting, batches, train


class Energy(nn.Module):
    """The energy of a few points, as a sum over their places."""

    def __init__(self) -> None:
        super().__init__()
        harmonics = o3.Irreps.spherical_harmonics(2)
        hidden = o3.Irreps("8x0e + 4x1o + 2x2e")
        self.harmonics = o3.SphericalHarmonics(harmonics, normalize=True, normalization="component")
        self.lift = o3.Linear("1x0e", hidden)
        self.product = o3.FullyConnectedTensorProduct(hidden, harmonics, hidden, shared_weights=False)
        self.radial = enn.FullyConnectedNet([1, 16, self.product.weight_numel], torch.nn.functional.silu)
        self.energy = o3.Linear(hidden, "1x0e")

    def forward(self, places: Tensor) -> Tensor:
        """Return one energy for each set of points, shape (batch,)."""
        radii = places.norm(dim=-1, keepdim=True)
        states = self.lift(torch.ones_like(radii))
        states = states + self.product(states, self.harmonics(places), self.radial(radii))
        total: Tensor = self.energy(states).squeeze(-1).mean(1)
        return total


def loss(model: nn.Module, batch: Any) -> Tensor:
    places, energies = batch
    return F.mse_loss(model(places), energies)


def fit(setting: Setting) -> pl.LightningModule:
    places = torch.randn(128, 5, 3)
    energies = (-(places.norm(dim=-1))).exp().sum(1)
    energies = setting.targets((energies - energies.mean()) / energies.std())
    return train(setting, Energy(), loss, batches(places, energies), rate=1e-2)


RECIPES = {"e3nn network": Recipe(package="e3nn", sickness=TARGETS, fit=fit)}
