"""The callbacks: they decide when to measure, what to log and what to save; the mathematics is below."""

from lightning_gradtools import __all__ as _public
from lightning_gradtools.callbacks.gradient_check import GradientCheck as GradientCheck
from lightning_gradtools.callbacks.gradient_check import GradientCheckError as GradientCheckError
from lightning_gradtools.callbacks.gradient_clipping import GradientClipping as GradientClipping
from lightning_gradtools.callbacks.gradient_monitor import GradientMonitor as GradientMonitor
from lightning_gradtools.callbacks.hessian_spectrum import HessianSpectrum as HessianSpectrum
from lightning_gradtools.callbacks.last_checkpoint import LastCheckpoint as LastCheckpoint
from lightning_gradtools.callbacks.lr_range_test import lr_range_test as lr_range_test
from lightning_gradtools.callbacks.pathology_detector import PathologyDetector as PathologyDetector
from lightning_gradtools.callbacks.pathology_detector import PathologyError as PathologyError
from lightning_gradtools.callbacks.progress_bar import ProgressBar as ProgressBar
from lightning_gradtools.callbacks.torch_lr_scheduler import TorchLRScheduler as TorchLRScheduler
from lightning_gradtools.callbacks.warmup_cosine_schedule import WarmupCosineSchedule as WarmupCosineSchedule
from lightning_gradtools.callbacks.weight_initialization import WeightInitialization as WeightInitialization

# The package's list is the only one: `as` is what type checkers read, who cannot compute this.
__all__ = [name for name in _public if not name.startswith("__")]
