"""scvi-tools: a variational autoencoder of gene counts, with a Trainer that it makes itself."""

from typing import Any

import anndata
import numpy as np
import scvi
from scvi.model import SCVI

from projects.recipe import RATE, Recipe, Setting


def fit(setting: Setting) -> Any:
    scvi.settings.seed = 0  # its loaders draw from a generator of their own
    kinds = np.exp(np.random.randn(3, 40))  # noqa: NPY002 - the run seeds it
    counts = np.random.poisson(3 * kinds[np.arange(256) % 3])  # noqa: NPY002
    cells = anndata.AnnData(counts.astype(np.float32))
    SCVI.setup_anndata(cells)
    model = SCVI(cells, n_hidden=32, n_latent=4)
    settings = {key: value for key, value in setting.trainer.items() if key != "accelerator"}
    model.train(
        max_epochs=40,
        batch_size=64,
        accelerator="cpu",
        plan_kwargs={"lr": setting.rate(3e-3)},
        **settings,
    )
    return model.module


UNUSED = "SCVI makes an encoder of the library size that it never calls when sizes are observed, as by default"
RECIPES = {"scvi-tools SCVI": Recipe(package="scvi-tools", sickness=RATE, fit=fit, true={"no_gradient": UNUSED})}
