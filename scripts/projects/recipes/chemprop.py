"""chemprop: a message-passing network that predicts a property of molecules, a LightningModule of its own."""

from typing import Any

import lightning.pytorch as pl
import numpy as np
from chemprop import data, models, nn

from projects.recipe import TARGETS, Recipe, Setting

HEADS = ("C", "CC", "CCC", "CO", "N", "OC", "Cl", "c1ccccc1")
TAILS = ("O", "N", "C(=O)O", "C#N", "C(C)C", "CCO", "F", "c1ccncc1")
WEIGHT = {"c": 12.0, "n": 14.0, "o": 16.0, "f": 19.0, "l": 23.5}


def fit(setting: Setting) -> Any:
    molecules = [f"{head}C{tail}" for head in HEADS for tail in TAILS]
    weights = np.array([[sum(WEIGHT.get(letter, 0.0) for letter in each.lower())] for each in molecules])
    weights = setting.targets((weights - weights.mean()) / weights.std())
    points = [data.MoleculeDatapoint.from_smi(each, y) for each, y in zip(molecules, weights, strict=True)]
    train = data.build_dataloader(data.MoleculeDataset(points), batch_size=16)
    val = data.build_dataloader(data.MoleculeDataset(points[:16]), batch_size=16, shuffle=False)
    rate = setting.rate(1e-3)
    model = models.MPNN(
        nn.BondMessagePassing(d_h=64),
        nn.MeanAggregation(),
        nn.RegressionFFN(input_dim=64, hidden_dim=64),
        init_lr=rate / 10,
        max_lr=rate,
        final_lr=rate / 10,
    )
    pl.Trainer(**setting.trainer, max_epochs=40).fit(setting.model(model), train, val)
    return model


RECIPES = {"chemprop MPNN": Recipe(package="chemprop", sickness=TARGETS, fit=fit)}
