"""Networks that read characters."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from detection import data
from detection.networks.dense import dense
from lightning_gradtools.tasks.networks import GPT


class SparseBag(nn.Module):
    """The mean of embeddings with sparse gradients, and a linear output."""

    def __init__(self, vocabulary: int, width: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, sparse=True)
        self.output = nn.Linear(width, classes)

    def forward(self, ids: Tensor) -> Tensor:
        y: Tensor = self.output(self.embedding(ids).mean(dim=1))
        return y


class Bag(nn.Module):
    """Embeddings of characters, what ``read`` makes of them, their mean, and two dense layers."""

    def __init__(self, vocabulary: int, classes: int, read: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 16)
        self.head = dense([16, 24, classes])
        self.read = read

    def forward(self, ids: Tensor) -> Tensor:
        y: Tensor = self.head(self.read(self.embedding, ids).mean(dim=1))
        return y


class SparseLogits(nn.Module):
    """Each character votes for the classes: a sum of embeddings with sparse gradients is the output."""

    def __init__(self, vocabulary: int, classes: int) -> None:
        super().__init__()
        self.votes = nn.Embedding(vocabulary, classes, sparse=True)

    def forward(self, ids: Tensor) -> Tensor:
        y: Tensor = self.votes(ids).sum(dim=1)
        return y


class FrozenEmbedding(nn.Module):
    """Random vectors of characters that are not trained, their mean, and dense layers that are."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(data.VOCABULARY, 48).requires_grad_(False)
        self.head = dense([48, 24, 3], nn.GELU)

    def forward(self, ids: Tensor) -> Tensor:
        y: Tensor = self.head(4 * self.embedding(ids).mean(dim=1))
        return y


class Frequencies(nn.Module):
    """How often each character occurs, and a linear output."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(data.VOCABULARY, 3)

    def forward(self, ids: Tensor) -> Tensor:
        y: Tensor = self.output(F.one_hot(ids, data.VOCABULARY).to(self.output.weight.dtype).sum(dim=1))
        return y


class Pairs(nn.Module):
    """The mean of sparse embeddings of pairs of characters, hashed to 499 rows, and a linear output."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(499, width, mode="mean", sparse=True)
        self.output = nn.Linear(width, 3)

    def forward(self, ids: Tensor) -> Tensor:
        y: Tensor = self.output(self.bag((31 * ids[:, 1:] + ids[:, :-1]) % 499))
        return y


class Grams(nn.Module):
    """Embeddings of three characters next to each other through ``head``, the mean over places, a linear output."""

    def __init__(self, vocabulary: int, classes: int, head: nn.Module, width: int = 24) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 8)
        self.head = head
        self.output = nn.Linear(width, classes)

    def forward(self, ids: Tensor) -> Tensor:
        grams = self.embedding(ids).unfold(1, 3, 1).flatten(2)
        y: Tensor = self.output(self.head(grams).mean(dim=1))
        return y


class AttentionPool(nn.Module):
    """A mean of embeddings with weights from a softmax of ``sharpness`` times a linear score."""

    def __init__(self, vocabulary: int, classes: int, sharpness: float = 1.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 16)
        self.score = nn.Linear(16, 1)
        self.softmax = nn.Softmax(dim=1)
        self.output = nn.Linear(16, classes)
        self.sharpness = sharpness

    def forward(self, ids: Tensor) -> Tensor:
        h = self.embedding(ids)
        weights = self.softmax(self.sharpness * self.score(h).squeeze(2))
        y: Tensor = self.output((weights[:, :, None] * h).sum(dim=1))
        return y


class Reader(nn.Module):
    """A recurrent cell over embedded characters, the mean of its states and a linear output."""

    def __init__(self, vocabulary: int, classes: int, cell: Callable[..., nn.Module], scale: float = 1.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 12)
        self.embedding.weight.data.mul_(scale)
        self.cell = cell(12, 16, batch_first=True)
        both = 2 if getattr(self.cell, "bidirectional", False) else 1
        self.output = nn.Linear(16 * both, classes)

    def forward(self, ids: Tensor) -> Tensor:
        y: Tensor = self.output(self.cell(self.embedding(ids))[0].mean(dim=1))
        return y


def gpt(**settings: Any) -> nn.Module:
    return GPT(data.VOCABULARY, context_length=32, depth=2, width=48, heads=4, **settings)


def small_gpt(**settings: Any) -> nn.Module:
    return GPT(data.VOCABULARY, context_length=16, depth=1, width=32, heads=2, **settings)
