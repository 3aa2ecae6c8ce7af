"""Refusals only; that DDP and FSDP2 work is in tests/test_distributed.py."""

import pytest
from helpers.runs import Regression, trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.callbacks import (
    GradientCheck,
    GradientClipping,
    GradientMonitor,
    HessianSpectrum,
    PathologyDetector,
    WarmupCosineSchedule,
    WeightInitialization,
)

READERS = (
    GradientMonitor(),
    GradientClipping(1.0),
    PathologyDetector(),
    HessianSpectrum(),
    GradientCheck(),
    WeightInitialization(),
    WarmupCosineSchedule(),
)


@pytest.mark.parametrize("strategy", [FSDPStrategy, DeepSpeedStrategy])
@pytest.mark.parametrize("callback", READERS, ids=lambda each: type(each).__name__)
def test_shards_that_do_not_say_so_are_refused_with_the_way_out(callback, strategy):
    run = trainer(callback)
    run._accelerator_connector.strategy = strategy.__new__(strategy)  # to make a whole one takes GPUs and deepspeed
    message = rf"^strategy={strategy.__name__}: .* of {type(callback).__name__}; use ModelParallelStrategy \(FSDP2\)"
    with pytest.raises(ArgumentError, match=message):
        callback.on_fit_start(run, Regression())
