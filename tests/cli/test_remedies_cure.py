"""Remedies that are told on the command line are typed, and the first one of the cause helps."""

import json
import math

import pytest

from lightning_gradtools.callbacks import PathologyDetector
from lightning_gradtools.cli import train
from lightning_gradtools.diagnosis import Severity

WATCHED = ("callbacks/gradtools=[gradient_monitor,pathology_detector]", "logger=csv", "test=false", "schedule=none")
# Changes that a look at one batch or a search makes, and no run that gets well.
LOOKS = {"overfit_one_batch", "search_learning_rate"}

SICK = {
    "sigmoids": ("experiment=vanishing_sigmoid",),
    "a rate that kills": ("experiment=dead_relu",),
    "weights too large": ("experiment=exploding_init",),
    "tanh from large weights": ("model.net.activation=tanh", "model.net.init_scale=30", "model.net.depth=4"),
    "a rate too low": ("optimizer.lr=1e-6",),
    "weight decay": ("optimizer.weight_decay=200",),
}


@pytest.fixture
def run(gradtools_train, monkeypatch, tmp_path):
    """Return a function from words to the detector of that run and its validation loss."""
    detectors, offer = [], train.offer_overrides

    def keep(callbacks, cfg, ownership):
        detectors.extend(each for each in callbacks if isinstance(each, PathologyDetector))
        offer(callbacks, cfg, ownership)

    monkeypatch.setattr(train, "offer_overrides", keep)

    def run(*words):
        folder = tmp_path / str(len(detectors))
        assert gradtools_train(*words, f"hydra.run.dir={folder}") == 0, words
        loss = json.loads((folder / "summary.json").read_text())["metrics"].get("val/loss")
        return detectors[-1], float("inf") if loss is None else loss

    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", SICK)
def test_every_remedy_can_be_typed_and_the_first_one_of_the_cause_makes_the_run_better(run, name):
    words = (*SICK[name], *WATCHED)
    sick, before = run(*words)
    root = sick.roots()[0]
    assert root.severity >= Severity.WARNING
    told = {
        str(remedy.change): remedy.overrides
        for finding in sick.findings
        if finding.severity >= Severity.WARNING
        for remedy in finding.remedy
        if remedy.overrides
    }
    outcomes = {change: run(*words, *overrides) for change, overrides in told.items() if change not in LOOKS}
    cured, after = outcomes[str(next(remedy.change for remedy in root.remedy if remedy.overrides))]
    assert after < (before if math.isfinite(before) else math.inf)
    assert root.kind not in {each.kind for each in cured.roots() if each.severity >= Severity.WARNING}
