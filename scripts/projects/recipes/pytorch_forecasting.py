"""pytorch-forecasting: LightningModules made for a data set of series."""

from functools import partial
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
from pytorch_forecasting import DeepAR, TemporalFusionTransformer, TimeSeriesDataSet
from pytorch_forecasting.metrics import NormalDistributionLoss, QuantileLoss

from projects.recipe import RATE, Recipe, Setting


def fit(kind: Any, settings: dict[str, Any], setting: Setting) -> Any:
    days = np.arange(100)
    noise = np.random.randn(4, 100)  # noqa: NPY002 - the run seeds it
    values = np.sin(2 * np.pi * (days + np.arange(4)[:, None]) / 12) + 0.1 * noise
    table = pd.DataFrame({"day": np.tile(days, 4), "series": np.repeat(list("abcd"), 100), "y": values.reshape(-1)})
    data = TimeSeriesDataSet(
        table,
        time_idx="day",
        target="y",
        group_ids=["series"],
        max_encoder_length=12,
        max_prediction_length=4,
        time_varying_unknown_reals=["y"],
        static_categoricals=["series"] if kind is TemporalFusionTransformer else [],
    )
    model = kind.from_dataset(data, learning_rate=setting.rate(3e-3), hidden_size=16, log_interval=-1, **settings)
    trainer = pl.Trainer(**setting.trainer, max_steps=150, max_epochs=-1)
    trainer.fit(setting.model(model), data.to_dataloader(True, 32), data.to_dataloader(False, 32))
    return model


TRANSFORMER = {"hidden_continuous_size": 8, "attention_head_size": 2, "loss": QuantileLoss()}
RECURRENT = {"rnn_layers": 1, "loss": NormalDistributionLoss()}
ONE_VARIABLE = "with one variable of a kind none are weighed, so what computes the context of the weights is not used"
RECIPES = {
    "pytorch-forecasting TFT": Recipe(
        package="pytorch-forecasting",
        sickness=RATE,
        fit=partial(fit, TemporalFusionTransformer, TRANSFORMER),
        true={"no_gradient": ONE_VARIABLE},
    ),
    "pytorch-forecasting DeepAR": Recipe(
        package="pytorch-forecasting", sickness=RATE, fit=partial(fit, DeepAR, RECURRENT)
    ),
}
