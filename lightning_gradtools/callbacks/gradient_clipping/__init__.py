"""Gradient clipping, and a guard against steps that are not finite."""

from lightning_gradtools.callbacks.gradient_clipping.callback import GradientClipping

__all__ = ["GradientClipping"]
