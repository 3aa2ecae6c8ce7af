"""What a run logs and keeps that goes on from a checkpoint is what it would have without having stopped."""

import json
from collections import defaultdict
from functools import partial

import pytest
import torch
from helpers.runs import Regression, batches, loader
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from torch import nn

from lightning_gradtools.callbacks import GradientClipping, GradientMonitor, HessianSpectrum, PathologyDetector
from lightning_gradtools.tasks.data.loading import TensorPairs, batch_loader

STEPS = 30
OBSERVERS = {
    "monitor": partial(
        GradientMonitor, 2, weight_norm=True, update_ratio=True, cosine=True, noise_scale=True, logs_per_flush=3
    ),
    "percentile": partial(GradientClipping, percentile=50.0, warmup_steps=2, window=6, log_every_n_steps=1),
    "adaptive": partial(GradientClipping, adaptive=0.05, log_every_n_steps=3),
    "detector": partial(PathologyDetector, every_n_steps=3, on_warning="log", on_critical="log", table=False),
    "spectrum of several": partial(HessianSpectrum, every_n_steps=3, top_k=1, num_batches=3),
    "spectrum of validation": partial(HessianSpectrum, every_n_epochs=1, top_k=1, source="val"),
    "spectrum": partial(HessianSpectrum, every_n_steps=4, top_k=2, density=20),
}
SICK = 5.0  # a learning rate
CLOCK = ("seconds", "overhead")


class Series(Logger):
    """A logger that keeps each series, and does not take two values for one step."""

    name = version = log_dir = None

    def __init__(self, folder):
        super().__init__()
        self.series = defaultdict(dict)
        self.log_dir = folder

    def log_hyperparams(self, params):
        pass

    def log_metrics(self, metrics, step=None):
        for key, value in metrics.items():
            assert step not in self.series[key] or self.series[key][step] == value, f"{key} at {step}: two points"
            self.series[key][step] = value


class Sparse(nn.Module):
    """A network with units that fire for few inputs, some for none, which dies a little while it trains."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 16), nn.Linear(16, 1)
        with torch.no_grad():
            self.first.bias.copy_(torch.linspace(-6, 0.5, 16))

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


class Saves(Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.save_checkpoint(self.folder / f"{trainer.fit_loop.epoch_loop.total_batch_idx + 1}.ckpt")


def run(folder, observer, *more, ckpt_path=None, lr=0.05, **settings):
    x, y = (torch.cat(part) for part in zip(*batches(7), strict=True))
    torch.manual_seed(0)
    module = Regression(Sparse, torch.optim.AdamW, lr=lr)
    logger = Series(folder)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        max_epochs=-1,
        logger=logger,
        log_every_n_steps=1,
        default_root_dir=folder,
        callbacks=[observer, *more],
        **settings,
    )
    data = batch_loader(TensorPairs(x, y), 8, shuffle_seed=0)
    trainer.fit(module, data, loader(batches(2)), ckpt_path=ckpt_path)
    assert getattr(observer, "failure", None) is None
    series = {key: points for key, points in logger.series.items() if not key.endswith(CLOCK)}
    findings = folder / "findings.jsonl"
    lines = [json.loads(line) for line in findings.read_text().splitlines()] if findings.exists() else []
    return {name: weight.clone() for name, weight in module.state_dict().items()}, series, lines


@pytest.mark.parametrize("name", OBSERVERS)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_series_of_a_resumed_run_are_those_of_one_that_did_not_stop(name, accumulate, tmp_path):
    settings = {"accumulate_grad_batches": accumulate}
    weights, series, _ = run(tmp_path / "whole", OBSERVERS[name](), Saves(tmp_path), **settings)
    assert series
    for batch in (2, 9, 13, 25):  # each the end of a window: Lightning keeps no gradients of half a one
        checkpoint = torch.load(tmp_path / f"{batch}.ckpt", weights_only=True)
        folder = tmp_path / f"from_{batch}"
        again, later, _ = run(folder, OBSERVERS[name](), ckpt_path=tmp_path / f"{batch}.ckpt", **settings)
        for key, weight in weights.items():
            assert torch.equal(weight, again[key]), key
        start = checkpoint["global_step"]
        expected = {key: {s: v for s, v in points.items() if s >= start} for key, points in series.items()}
        assert {key: points for key, points in expected.items() if points} == dict(later)


def test_what_was_found_after_a_checkpoint_is_in_the_file_once_when_it_is_found_again(tmp_path):
    folder = tmp_path / "run"
    _, _, lines = run(folder, OBSERVERS["detector"](), Saves(tmp_path), lr=SICK)
    assert {line["step"] for line in lines} - {0}  # something to lose, and something before it
    with (folder / "findings.jsonl").open("a") as file:
        file.write('{"kind": "cut off by a ki')
    for batch in (5, 20, 2):
        assert run(folder, OBSERVERS["detector"](), ckpt_path=tmp_path / f"{batch}.ckpt", lr=SICK)[2] == lines


def test_the_file_of_another_run_is_left_as_it_is(tmp_path):
    run(tmp_path / "first", OBSERVERS["detector"](), Saves(tmp_path), lr=SICK)
    other = tmp_path / "other"
    other.mkdir()
    (other / "findings.jsonl").write_text('{"kind": "of another run"}\n' * 50)
    _, _, lines = run(other, OBSERVERS["detector"](), ckpt_path=tmp_path / "2.ckpt", lr=SICK)
    assert lines[:50] == [{"kind": "of another run"}] * 50
    assert len(lines) > 50
