"""neuralforecast: forecasts with a `pytorch_lightning` Trainer that it makes itself."""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from neuralforecast import NeuralForecast
from neuralforecast.models import LSTM, NHITS

from projects.recipe import EQUAL, TARGETS, Recipe, Setting


def fit(kind: Any, settings: dict[str, Any], setting: Setting) -> Any:
    days = np.arange(200)
    noise = np.random.randn(4, 200)  # noqa: NPY002 - the run seeds it
    values = np.sin(2 * np.pi * (days + np.arange(4)[:, None]) / 12) + 0.1 * noise
    table = pd.DataFrame(
        {
            "unique_id": np.repeat(np.arange(4), 200),
            "ds": np.tile(pd.date_range("2020-01-01", periods=200), 4),
            "y": setting.targets(values).reshape(-1),
        }
    )
    forecaster = NeuralForecast(
        [kind(h=4, input_size=12, max_steps=150, learning_rate=setting.rate(1e-3), **settings, **setting.trainer)], "D"
    )
    setting.model(forecaster.models[0])
    forecaster.fit(table)
    return forecaster.models[0]


SMALL = {"n_blocks": [1, 1, 1], "mlp_units": [[32, 32]] * 3, "scaler_type": "identity"}
RECURRENT = {"encoder_hidden_size": 16, "decoder_hidden_size": 16, "encoder_n_layers": 1}
RECIPES = {
    "neuralforecast NHITS": Recipe(package="neuralforecast", sickness=TARGETS, fit=partial(fit, NHITS, SMALL)),
    "neuralforecast LSTM": Recipe(package="neuralforecast", sickness=EQUAL, fit=partial(fit, LSTM, RECURRENT)),
}
