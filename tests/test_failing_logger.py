"""A logger that fails (a full disk, a closed connection) ends no run and changes none, whoever of us writes to it."""

import pytest
import torch
from helpers import fault_cases as cases
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_gradtools.reporting.loggers import TensorBoardAdapter

METHODS = ["scalars", "histogram", "figure", "text"]
WRITES = {
    "GradientMonitor": ["scalars", "histogram", "figure"],
    "PathologyDetector": ["scalars"],
    "HessianSpectrum": ["scalars", "figure"],
    "GradientClipping": ["scalars"],
    "WarmupCosineSchedule": ["figure"],
}


def full_disk(*_args):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(("name", "method"), [(name, method) for name, methods in WRITES.items() for method in methods])
def test_it_is_told_once_and_training_is_as_without_us(monkeypatch, tmp_path, name, method):
    plain = cases.train()
    monkeypatch.setattr(TensorBoardAdapter, method, full_disk)
    found = cases.train(cases.OBSERVERS[name](), logger=TensorBoardLogger(tmp_path))
    assert torch.equal(found.weights, plain.weights)
    assert found.steps == plain.steps
    assert not [each for each in found.left if each not in plain.left]
    (told,) = found.warnings
    assert name in told
    assert "No space left on device" in told
