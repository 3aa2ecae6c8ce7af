"""The callbacks: they decide when to measure, what to log and what to save; the mathematics is below."""

from lightning_gradtools.callbacks.gradient_check import GradientCheck, GradientCheckError
from lightning_gradtools.callbacks.gradient_clipping import GradientClipping
from lightning_gradtools.callbacks.gradient_monitor import GradientMonitor
from lightning_gradtools.callbacks.hessian_spectrum import HessianSpectrum
from lightning_gradtools.callbacks.lr_range_test import LRRangeTest, lr_range_test
from lightning_gradtools.callbacks.pathology_detector import PathologyDetector
from lightning_gradtools.callbacks.progress_bar import ProgressBar
from lightning_gradtools.callbacks.torch_lr_scheduler import TorchLRScheduler
from lightning_gradtools.callbacks.warmup_cosine_schedule import WarmupCosineSchedule
from lightning_gradtools.callbacks.weight_initialization import WeightInitialization

__all__ = [
    "GradientCheck",
    "GradientCheckError",
    "GradientClipping",
    "GradientMonitor",
    "HessianSpectrum",
    "LRRangeTest",
    "PathologyDetector",
    "ProgressBar",
    "TorchLRScheduler",
    "WarmupCosineSchedule",
    "WeightInitialization",
    "lr_range_test",
]
