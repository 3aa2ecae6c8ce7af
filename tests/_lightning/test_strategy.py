"""Refusals, and how ranks share out a step; that DDP and FSDP2 work is in tests/test_distributed.py."""

from types import SimpleNamespace

import pytest
import torch
from helpers.runs import Regression, trainer
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, SingleDeviceStrategy

from lightning_gradtools._lightning.strategy import replicas
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


def test_weights_that_are_to_be_alike_on_all_ranks():
    def alike(strategy, ranks=2, ignored=()):
        module = LightningModule()
        if ignored:
            module._ddp_params_and_buffers_to_ignore = ignored
        trainer = SimpleNamespace(strategy=strategy, world_size=ranks, lightning_module=module)
        return replicas(trainer).alike

    devices = [torch.device("cpu")] * 2
    assert alike(DDPStrategy(parallel_devices=devices))
    assert not alike(DDPStrategy(parallel_devices=devices, model_averaging_period=4))
    assert not alike(DDPStrategy(parallel_devices=devices), ignored=["net.0.weight"])
    assert not alike(SingleDeviceStrategy(), ranks=1)
