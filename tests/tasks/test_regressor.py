from functools import partial

import pytest
import torch
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from torch.optim import AdamW

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.tasks import MLP, Regressor, TabularData


def test_diabetes_is_learnt_and_the_metrics_are_scikit_learns(trainer):
    torch.manual_seed(0)
    task, data = Regressor(MLP(10, 1, depth=0), partial(AdamW, lr=1e-2)), TabularData()
    run = trainer(max_epochs=40, check_val_every_n_epoch=40)
    run.fit(task, datamodule=data)
    logged = {key: value.item() for key, value in run.callback_metrics.items()}
    assert set(logged) == {"train/loss", "val/loss", "val/r2", "val/mae", "val/rmse"}
    val = data.splits.val
    with torch.no_grad():
        outputs = task(val.inputs).squeeze(-1)
    assert logged["val/r2"] == pytest.approx(r2_score(val.targets, outputs), abs=1e-4)
    assert logged["val/mae"] == pytest.approx(mean_absolute_error(val.targets, outputs), abs=1e-4)
    assert logged["val/rmse"] == pytest.approx(root_mean_squared_error(val.targets, outputs), abs=1e-4)
    assert logged["val/loss"] == pytest.approx(logged["val/rmse"] ** 2, rel=1e-4)

    # As good as the least-squares solution, whose optimum is in closed form.
    x = torch.cat([data.splits.train.inputs, torch.ones(266, 1)], dim=1)
    solution = torch.linalg.lstsq(x, data.splits.train.targets[:, None]).solution
    best = r2_score(val.targets, torch.cat([val.inputs, torch.ones(88, 1)], dim=1) @ solution)
    assert logged["val/r2"] == pytest.approx(best, abs=0.05)


def test_a_network_with_more_than_one_output():
    with pytest.raises(ArgumentError, match=r"^out_features=2: must be 1"):
        Regressor(MLP(10, 2))
