"""darts: forecasts in double precision, with a `pytorch_lightning` Trainer that it makes itself."""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from darts import TimeSeries
from darts.models import NBEATSModel, TCNModel, TransformerModel

from projects.recipe import RATE, TARGETS, Recipe, Setting


def wave(setting: Setting) -> TimeSeries:
    """Return a noisy wave."""
    days = np.arange(400)
    values = np.sin(2 * np.pi * days / 12) + 0.1 * np.random.randn(400)  # noqa: NPY002 - the run seeds it
    return TimeSeries.from_times_and_values(pd.date_range("2020-01-01", periods=400), setting.targets(values))


def fit(kind: Any, settings: dict[str, Any], setting: Setting) -> Any:
    forecaster = kind(
        input_chunk_length=12,
        output_chunk_length=4,
        n_epochs=12,
        optimizer_kwargs={"lr": setting.rate(1e-3)},
        pl_trainer_kwargs=setting.trainer,
        random_state=0,
        **settings,
    )
    forecaster.fit(wave(setting))
    return forecaster.model


NBEATS = {"num_stacks": 2, "num_blocks": 1, "num_layers": 2, "layer_widths": 32}
TRANSFORMER = {"d_model": 16, "nhead": 2, "num_encoder_layers": 1, "num_decoder_layers": 1, "dim_feedforward": 32}
RECIPES = {
    "darts N-BEATS": Recipe(package="darts", sickness=TARGETS, fit=partial(fit, NBEATSModel, NBEATS)),
    "darts TCN": Recipe(package="darts", sickness=RATE, fit=partial(fit, TCNModel, {"num_filters": 8})),
    "darts Transformer": Recipe(package="darts", sickness=RATE, fit=partial(fit, TransformerModel, TRANSFORMER)),
}
