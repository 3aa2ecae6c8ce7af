"""gluonts: DeepAR, with a Trainer that it makes itself."""

from typing import Any

import numpy as np
from gluonts.dataset.common import ListDataset
from gluonts.torch.model.deepar import DeepAREstimator

from projects.recipe import RATE, Recipe, Setting


def fit(setting: Setting) -> Any:
    days = np.arange(200)
    noise = np.random.randn(8, 200)  # noqa: NPY002 - the run seeds it
    values = 2 + np.sin(2 * np.pi * (days + np.arange(8)[:, None]) / 12) + 0.1 * noise
    series = ListDataset([{"start": "2020-01-01", "target": each} for each in values], freq="D")
    estimator = DeepAREstimator(
        freq="D",
        prediction_length=4,
        context_length=12,
        hidden_size=16,
        num_layers=1,
        lr=setting.rate(1e-3),
        batch_size=16,
        num_batches_per_epoch=20,
        trainer_kwargs={**setting.trainer, "max_epochs": 8, "gradient_clip_val": None},
    )
    return estimator.train_model(series).trained_net


RECIPES = {"gluonts DeepAR": Recipe(package="gluonts", sickness=RATE, fit=fit)}
