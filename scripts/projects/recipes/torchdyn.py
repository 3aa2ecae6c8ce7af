"""torchdyn: a neural ordinary differential equation that classifies points."""

from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchdyn.core import NeuralODE

from projects.recipe import INITIAL, Recipe, Setting, batches, train


class Classifier(nn.Module):
    """Two circles, told apart where the flow has carried them."""

    def __init__(self) -> None:
        super().__init__()
        field = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 4))
        self.flow = NeuralODE(field, sensitivity="autograd", solver="rk4", return_t_eval=False)
        self.head = nn.Linear(4, 2)

    def forward(self, points: Tensor) -> Tensor:
        """Return scores of two classes."""
        scores: Tensor = self.head(self.flow(F.pad(points, (0, 2)), torch.linspace(0, 1, 5))[-1])
        return scores


def loss(model: nn.Module, batch: Any) -> Tensor:
    points, labels = batch
    return F.cross_entropy(model(points), labels)


def fit(setting: Setting) -> pl.LightningModule:
    labels = torch.arange(256) % 2
    angles = 6.28 * torch.rand(256)
    points = (0.5 + labels[:, None]) * torch.stack([angles.cos(), angles.sin()], 1) + 0.1 * torch.randn(256, 2)
    return train(setting, Classifier(), loss, batches(points, labels), rate=1e-2)


RECIPES = {"torchdyn ODE": Recipe(package="torchdyn", sickness=INITIAL, fit=fit)}
