"""The callbacks: they decide when to measure, what to log and what to save; the mathematics is below."""

from lightning_gradtools.callbacks.gradient_clipping import GradientClipping
from lightning_gradtools.callbacks.gradient_monitor import GradientMonitor
from lightning_gradtools.callbacks.pathology_detector import PathologyDetector
from lightning_gradtools.callbacks.progress_bar import ProgressBar
from lightning_gradtools.callbacks.warmup_cosine_schedule import WarmupCosineSchedule

__all__ = ["GradientClipping", "GradientMonitor", "PathologyDetector", "ProgressBar", "WarmupCosineSchedule"]
