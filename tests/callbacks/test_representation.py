"""What a callback is printed as: the call that makes one like it, without what is by default."""

from functools import partial

import pytest
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from lightning_gradtools import (
    GradientCheck,
    HessianSpectrum,
    PathologyDetector,
    TorchLRScheduler,
    WarmupCosineSchedule,
    WeightInitialization,
)

STEP = partial(StepLR, step_size=3)


@pytest.mark.parametrize(
    ("callback", "text"),
    [
        (GradientCheck(exclude=[]), "GradientCheck()"),
        (GradientCheck(exclude=["a"], on_failure="warn"), "GradientCheck(exclude=('a',), on_failure='warn')"),
        (PathologyDetector(), "PathologyDetector()"),
        (PathologyDetector(5, on_info="warn"), "PathologyDetector(every_n_steps=5, on_info='warn')"),
        (PathologyDetector(table=False), "PathologyDetector(table=False)"),
        (HessianSpectrum(every_n_steps=3, top_k=1), "HessianSpectrum(every_n_steps=3, top_k=1)"),
        (HessianSpectrum(max_overhead=0.1), "HessianSpectrum(max_overhead=0.1)"),
        (HessianSpectrum(every_n_epochs=1, budget_seconds=5), "HessianSpectrum(every_n_epochs=1, budget_seconds=5)"),
        (WarmupCosineSchedule(), "WarmupCosineSchedule()"),
        (
            WarmupCosineSchedule("1 epochs", decay="linear", num_cycles=2, replace=True),
            "WarmupCosineSchedule(warmup_steps='1 epochs', decay='linear', num_cycles=2, replace=True)",
        ),
        (TorchLRScheduler(STEP), f"TorchLRScheduler(scheduler={STEP!r}, interval='epoch')"),
        (
            TorchLRScheduler(ReduceLROnPlateau, frequency=2, monitor="val/loss"),
            f"TorchLRScheduler(scheduler={partial(ReduceLROnPlateau)!r}, interval='epoch', frequency=2,"
            " monitor='val/loss')",
        ),
        (WeightInitialization(), "WeightInitialization()"),
        (
            WeightInitialization("xavier", embedding_std=None, seed=0),
            "WeightInitialization(scheme='xavier', embedding_std=None, seed=0)",
        ),
    ],
)
def test_a_callback_is_printed_as_the_call_that_makes_it(callback, text):
    assert repr(callback) == text
