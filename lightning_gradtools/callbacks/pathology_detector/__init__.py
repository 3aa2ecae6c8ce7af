"""Names the sick layer while a network trains."""

from lightning_gradtools.callbacks.pathology_detector.callback import PathologyDetector
from lightning_gradtools.callbacks.pathology_detector.policy import PathologyError

__all__ = ["PathologyDetector", "PathologyError"]
