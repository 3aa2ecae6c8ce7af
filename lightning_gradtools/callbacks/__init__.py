"""Lightning callbacks: when to measure, what to log, what to save."""

from lightning_gradtools.callbacks.gradient_clipping import GradientClipping
from lightning_gradtools.callbacks.gradient_monitor import GradientMonitor

__all__ = ["GradientClipping", "GradientMonitor"]
