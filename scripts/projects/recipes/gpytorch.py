"""gpytorch: a Gaussian process with learned inducing points, trained by its variational bound."""

from typing import Any

import gpytorch
import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from projects.recipe import TARGETS, Recipe, Setting, batches, train


class Process(gpytorch.models.ApproximateGP):  # type: ignore[misc]
    """A Gaussian process with a radial kernel."""

    def __init__(self, points: Tensor) -> None:
        spread = gpytorch.variational.CholeskyVariationalDistribution(len(points))
        super().__init__(gpytorch.variational.VariationalStrategy(self, points, spread))
        self.mean = gpytorch.means.ConstantMean()
        self.kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())
        self.likelihood = gpytorch.likelihoods.GaussianLikelihood()

    def forward(self, inputs: Tensor) -> Any:
        """Return the distribution before anything was seen."""
        return gpytorch.distributions.MultivariateNormal(self.mean(inputs), self.kernel(inputs))


def loss(model: nn.Module, batch: Any) -> Tensor:
    inputs, targets = batch
    bound: Tensor = gpytorch.mlls.VariationalELBO(model.likelihood, model, num_data=256)(model(inputs), targets)
    return -bound


def fit(setting: Setting) -> pl.LightningModule:
    inputs = torch.linspace(0, 1, 256)[:, None]
    targets = setting.targets((6 * inputs[:, 0]).sin() + 0.1 * torch.randn(256))
    loader = batches(inputs, targets)
    return train(setting, Process(torch.rand(16, 1)), loss, loader, rate=0.01, steps=200)


RECIPES = {"gpytorch variational GP": Recipe(package="gpytorch", sickness=TARGETS, fit=fit)}
