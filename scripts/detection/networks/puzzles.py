"""Networks for questions with a long plateau."""

import torch
from torch import Tensor, nn

from detection.networks.attention import Block
from detection.networks.dense import dense


class Pair(nn.Module):
    """Two symbols with a common table of vectors, whose sum goes through a wide layer."""

    def __init__(self, symbols: int, width: int = 32, activation: type = nn.ReLU, scale: float = 0.1) -> None:
        super().__init__()
        self.table = nn.Embedding(symbols, width)
        nn.init.normal_(self.table.weight, std=scale)
        self.head = dense([width, 128, symbols], activation)

    def forward(self, pair: Tensor) -> Tensor:
        y: Tensor = self.head(self.table(pair).sum(dim=1))
        return y


def deep_linear(features: int, depth: int, scale: float) -> nn.Module:
    """Matrices without an activation between, small ones: near a saddle of the loss (Saxe et al., arXiv:1312.6120)."""
    net = nn.Sequential(*[nn.Linear(features, features, bias=False) for _ in range(depth)])
    for layer in net:
        nn.init.orthogonal_(layer.weight, scale)  # type: ignore[arg-type]
    return net


class Summing(nn.Module):
    """An LSTM and a number from its last state."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.cell = nn.LSTM(2, width, batch_first=True)
        self.output = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.output(self.cell(x)[0][:, -1])
        return y


class Reader(nn.Module):
    """A transformer over symbols, with a vector for each place; longer rows than there are leave some unused."""

    def __init__(self, symbols: int, places: int, depth: int = 1, width: int = 32) -> None:
        super().__init__()
        self.symbols, self.places = nn.Embedding(symbols, width), nn.Embedding(places, width)
        self.blocks = nn.ModuleList(Block(width, 2, residual=True, norm=True) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, symbols)

    def forward(self, ids: Tensor) -> Tensor:
        h = self.symbols(ids) + self.places(torch.arange(ids.shape[1]))
        for block in self.blocks:
            h = block(h)
        y: Tensor = self.output(self.norm(h))
        return y


class Causal(Reader):
    """The same, where each place sees those before it alone."""

    def forward(self, ids: Tensor) -> Tensor:
        h = self.symbols(ids) + self.places(torch.arange(ids.shape[1]))
        for block in self.blocks:
            q, k, v = (
                f(block.first(h)).unflatten(2, (block.heads, -1)).transpose(1, 2)  # type: ignore[operator]
                for f in (block.query, block.key, block.value)
            )
            mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            h = h + block.mix(mixed.transpose(1, 2).flatten(2))  # type: ignore[operator]
            h = h + block.dense(block.second(h))  # type: ignore[operator]
        y: Tensor = self.output(self.norm(h))
        return y
