"""The callbacks: they decide when to measure, what to log and what to save; the mathematics is below."""

from lightning_gradtools.callbacks.progress_bar import ProgressBar

__all__ = ["ProgressBar"]
"""Lightning callbacks: when to measure, what to log, what to save."""
