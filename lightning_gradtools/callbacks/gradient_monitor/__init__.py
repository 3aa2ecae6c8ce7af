"""Gradient norms of every layer while a network trains."""

from lightning_gradtools.callbacks.gradient_monitor.callback import GradientMonitor, GradientRecord

__all__ = ["GradientMonitor", "GradientRecord"]
