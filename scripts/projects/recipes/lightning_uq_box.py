"""lightning-uq-box: a network that predicts mean and variance, a LightningModule with an optimizer that it is given."""

from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from lightning_uq_box.models import MLP
from lightning_uq_box.uq_methods import MVERegression
from torch.utils.data import DataLoader

from projects.recipe import INPUTS, Recipe, Setting


def fit(setting: Setting) -> Any:
    inputs = torch.randn(256, 4)
    targets = inputs.sin().sum(1, keepdim=True) + 0.1 * torch.randn(256, 1)
    pairs: Any = [{"input": x, "target": y} for x, y in zip(setting.inputs(inputs), targets, strict=True)]
    network = setting.model(MLP(n_inputs=4, n_hidden=[32, 32], n_outputs=2))
    model = MVERegression(network, optimizer=partial(torch.optim.Adam, lr=setting.rate(3e-3)), burnin_epochs=5)
    shuffled: DataLoader[Any] = DataLoader(pairs, batch_size=32, shuffle=True)
    pl.Trainer(**setting.trainer, max_epochs=25).fit(model, shuffled, DataLoader(pairs, batch_size=32))
    return model


RECIPES = {"lightning-uq-box MVE": Recipe(package="lightning-uq-box", sickness=INPUTS, fit=fit)}
