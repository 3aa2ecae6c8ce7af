"""Networks in which the rows of a digit are mixed: by attention or by dense layers."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection.networks.dense import dense


class SharpAttention(nn.Module):
    """A transformer layer with ``sharpness`` times the usual attention logits; (batch, 8, 8) to (batch, 10)."""

    def __init__(self, width: int = 32, sharpness: float = 1.0) -> None:
        super().__init__()
        self.embedding = nn.Linear(8, width)
        self.position = nn.Parameter(0.1 * torch.randn(8, width))
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.softmax = nn.Softmax(dim=-1)
        self.hidden = nn.Linear(width, width)
        self.output = nn.Linear(width, 10)
        self.scale = sharpness / width**0.5

    def forward(self, x: Tensor) -> Tensor:
        h = self.embedding(x) + self.position
        weights = self.softmax(self.query(h) @ self.key(h).transpose(1, 2) * self.scale)
        h = F.gelu(self.hidden(weights @ self.value(h)))
        y: Tensor = self.output(h.mean(dim=1))
        return y


class Block(nn.Module):
    """Self-attention and two dense layers, each optionally with a skip connection and a layer norm before it."""

    def __init__(self, width: int, heads: int, residual: bool, norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.mix = (nn.Linear(width, width) for _ in range(4))
        self.dense = dense([width, 2 * width, width], nn.GELU)
        self.first, self.second = (nn.LayerNorm(width) if norm else nn.Identity() for _ in range(2))
        self.residual = residual

    def attention(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        q, k, v = (
            f(x).view(batch, time, self.heads, width // self.heads).transpose(1, 2)
            for f in (self.query, self.key, self.value)
        )
        weights = (q @ k.transpose(2, 3) / (width // self.heads) ** 0.5).softmax(dim=-1)
        y: Tensor = self.mix((weights @ v).transpose(1, 2).reshape(batch, time, width))
        return y

    def forward(self, x: Tensor) -> Tensor:
        h = self.attention(self.first(x))
        x = x + h if self.residual else h
        y: Tensor = self.dense(self.second(x))
        return x + y if self.residual else y


class Encoder(nn.Module):
    """A transformer that reads the rows of a digit; (batch, 8, 8) to (batch, 10)."""

    def __init__(
        self,
        depth: int,
        width: int = 24,
        residual: bool = True,
        norm: bool = True,
        between: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.embedding = nn.Linear(8, width)
        self.position = nn.Parameter(0.3 * torch.randn(8, width))
        self.blocks = nn.ModuleList(Block(width, 2, residual, norm) for _ in range(depth))
        self.output = nn.Linear(width, 10)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x) + self.position
        for block in self.blocks:
            x = block(x)
            if self.between is not None:
                x = self.between(x)
        y: Tensor = self.output(x.mean(dim=1))
        return y


class PostNorm(nn.Module):
    """PyTorch's own transformer layers, norm after the skip connection, over the rows of a digit."""

    def __init__(self, depth: int, activation: str = "relu") -> None:
        super().__init__()
        self.embedding = nn.Linear(8, 24)
        self.position = nn.Parameter(0.3 * torch.randn(8, 24))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(24, 3, 48, dropout=0.0, activation=activation, batch_first=True)
            for _ in range(depth)
        )
        self.output = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x) + self.position
        for layer in self.layers:
            x = layer(x)
        y: Tensor = self.output(x[:, 0])
        return y


class Mixer(nn.Module):
    """Dense layers over the rows of a digit, then over its columns, many times (Tolstikhin et al., arXiv:2105.01601).

    ``branch`` is what happens to the second layer's output before it is added.
    """

    def __init__(
        self,
        depth: int,
        activation: Callable[[], nn.Module] = nn.GELU,
        residual: bool = True,
        branch: Callable[[Tensor], Tensor] = lambda h: h,
    ) -> None:
        super().__init__()
        self.embedding = nn.Linear(8, 16)
        self.over_rows = nn.ModuleList(dense([8, 16, 8], activation) for _ in range(depth))
        self.over_columns = nn.ModuleList(dense([16, 32, 16], activation) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(16) if residual else nn.Identity() for _ in range(2 * depth))
        self.output = nn.Linear(16, 10)
        self.residual, self.branch = residual, branch

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x)
        for index, (rows, columns) in enumerate(zip(self.over_rows, self.over_columns, strict=True)):
            h = rows(self.norms[2 * index](x).transpose(1, 2)).transpose(1, 2)
            x = x + h if self.residual else h
            h = self.branch(columns(self.norms[2 * index + 1](x)))
            x = x + h if self.residual else h
        y: Tensor = self.output(x.mean(dim=1))
        return y
