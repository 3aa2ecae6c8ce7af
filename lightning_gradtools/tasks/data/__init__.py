"""Data modules: small, real, in memory, split by a fixed seed, with nothing to download."""

from lightning_gradtools.tasks.data.digits import DigitsData
from lightning_gradtools.tasks.data.tabular import TabularData
from lightning_gradtools.tasks.data.text import TextData

__all__ = ["DigitsData", "TabularData", "TextData"]
