"""Text of Python's standard library, character by character."""

from functools import lru_cache

import torch

from detection.data.training_set import Data, make
from lightning_gradtools.tasks.data.text import ALPHABET, encode, standard_library_text

VOCABULARY = len(ALPHABET) + 1


@lru_cache
def text(context_length: int = 32, windows: int = 64) -> Data:
    """Windows of characters and their next characters."""
    ids = encode(standard_library_text(windows * context_length + 1))
    return make(ids[:-1].view(windows, context_length), ids[1:].view(windows, context_length))


def short_text() -> Data:
    return text(16, 96)


@lru_cache
def bags(windows: int = 640) -> Data:
    """Windows of 24 characters; the class says in which third the share of letters falls."""
    ids = encode(standard_library_text(24 * windows)).view(windows, 24)
    letters = ((ids >= 13) & (ids <= 64)).float().mean(dim=1)
    return make(ids, torch.bucketize(letters, letters.quantile(torch.tensor([1 / 3, 2 / 3]))))
