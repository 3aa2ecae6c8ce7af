"""Gradient norms of every layer while a network trains."""

from lightning_gradtools.callbacks.gradient_monitor.callback import GradientMonitor
from lightning_gradtools.callbacks.gradient_monitor.report import GradientRecord

__all__ = ["GradientMonitor", "GradientRecord"]
