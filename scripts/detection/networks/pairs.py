"""Networks that compare: two towers, tables of vectors, a network and its average."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection.networks.dense import dense


class TwoTowers(nn.Module):
    """Cosines of what two networks make of the two halves of an image, times a trained factor."""

    def __init__(self) -> None:
        super().__init__()
        self.upper, self.lower = dense([32, 64, 24], nn.GELU), dense([32, 64, 24], nn.GELU)
        self.log_scale = nn.Parameter(torch.full((1,), 2.0))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        a, b = F.normalize(self.upper(x), dim=1), F.normalize(self.lower(y), dim=1)
        return self.log_scale.exp() * a @ b.t()


class Factors(nn.Module):
    """The score of a user and an item: the product of their vectors, which have sparse gradients."""

    def __init__(self, users: int, items: int, width: int = 8) -> None:
        super().__init__()
        self.users, self.items = (nn.Embedding(size, width, sparse=True) for size in (users, items))
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return (self.users(user) * self.items(item)).sum(dim=1)  # type: ignore[no-any-return]


class SkipGram(nn.Module):
    """Whether two words stand side by side: the product of their vectors (Mikolov et al., arXiv:1310.4546)."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.words, self.contexts = (nn.Embedding(vocabulary, width, sparse=True) for _ in range(2))
        nn.init.uniform_(self.words.weight, -0.5, 0.5)
        nn.init.zeros_(self.contexts.weight)

    def forward(self, word: Tensor, context: Tensor) -> Tensor:
        return (self.words(word) * self.contexts(context)).sum(dim=1)  # type: ignore[no-any-return]


def byol() -> nn.Module:
    """A network, a predictor, and the network's average, which no gradient reaches."""
    online = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 24))
    target = copy.deepcopy(online).requires_grad_(False)
    predictor = nn.Sequential(nn.Linear(24, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 24))
    return nn.ModuleDict({"online": online, "predictor": predictor, "target": target})
