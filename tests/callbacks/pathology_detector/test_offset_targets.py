"""Targets far from zero: every training starts far above the baseline loss there, and that is no fault."""

import pytest
import torch
import torch.nn.functional as F
from helpers.pathology_cases import Classification, serious, watch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_gradtools.activations.baseline_loss import KNOWN_LOSSES, baseline_loss, zero_loss


class Offset(Classification):
    """A regression, with a warm-up or without."""

    def __init__(self, warmup: int = 0, loss=F.mse_loss):
        super().__init__(
            nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 1)), lr=1e-2, optimizer=torch.optim.Adam
        )
        self.warmup, self.loss = warmup, loss

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.loss(self.net(x), y)

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        if not self.warmup:
            return optimizer
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, 1, self.warmup)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def data(offset):
    x = torch.randn(1024, 2, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(x, offset + 3 * (x[:, :1] + x[:, 1:].tanh())), batch_size=64)


@pytest.mark.parametrize("warmup", [0, 60])
@pytest.mark.parametrize("loss", [F.mse_loss, F.l1_loss])
def test_a_run_that_first_learns_the_mean_is_healthy(warmup, loss):
    torch.manual_seed(0)
    assert not serious(watch(Offset(warmup, loss), data=data(14.0), steps=200))


def test_one_that_runs_away_is_sick_all_the_same():
    torch.manual_seed(0)
    module = Offset()
    module.make, module.lr = torch.optim.SGD, 0.5
    assert serious(watch(module, data=data(14.0), steps=60))


@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"])
def test_the_loss_of_zero_is_that_of_predicting_zero(name):
    target = 5 + torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    function, nothing = getattr(F, name), torch.zeros(64, 3)
    sample = KNOWN_LOSSES[name]((nothing, target), {}, function(nothing, target))
    moments = (sample.kind, sample.count, sample.first, sample.second)
    assert zero_loss(*moments) == pytest.approx(function(nothing, target).item(), rel=1e-5)
    assert zero_loss(*moments) > baseline_loss(*moments)


def test_classes_have_no_zero():
    scores, classes = torch.zeros(64, 3), torch.arange(64) % 3
    sample = KNOWN_LOSSES["cross_entropy"]((scores, classes), {}, F.cross_entropy(scores, classes))
    assert zero_loss(sample.kind, sample.count, sample.first, sample.second).isnan()
