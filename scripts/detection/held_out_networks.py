"""Networks that only the held-out recipes train."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection.networks import dense


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


class Gated(nn.Module):
    """Residual blocks of two layers whose product is a third one's input, one of them through SiLU."""

    def __init__(self, features: int, outputs: int, depth: int, width: int = 24) -> None:
        super().__init__()
        self.input = nn.Linear(features, width)
        self.gates, self.values, self.mixes = (
            nn.ModuleList(nn.Linear(width, width) for _ in range(depth)) for _ in range(3)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.output = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.input(x)
        for norm, gate, value, mix in zip(self.norms, self.gates, self.values, self.mixes, strict=True):
            h = norm(x)
            x = x + mix(F.silu(gate(h)) * value(h))
        y: Tensor = self.output(x)
        return y


class SqueezeExcite(nn.Module):
    """A convolution whose channels are weighed by sigmoid gates that see the mean over space."""

    def __init__(self, channels: int = 12) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, channels, 3, padding=1), nn.Conv2d(channels, channels, 3, padding=1)
        self.gate = dense([channels, 4, channels], nn.SiLU)
        self.output = nn.Linear(16 * channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.second(F.leaky_relu(self.first(x)))
        h = h * self.gate(h.mean(dim=(2, 3))).sigmoid()[:, :, None, None]
        y: Tensor = self.output(F.max_pool2d(F.leaky_relu(h), 2).flatten(1))
        return y


class Concatenating(nn.Module):
    """Each layer sees the input and what every layer before it gave (Huang et al., arXiv:1608.06993)."""

    def __init__(self, features: int, outputs: int, depth: int, growth: int = 8) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(features + growth * i, growth) for i in range(depth))
        self.output = nn.Linear(features + growth * depth, outputs)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x).relu()], dim=1)
        y: Tensor = self.output(x)
        return y


class Adding(nn.Module):
    """x + f(x) without norm, f one layer and an activation; ``gain`` times Glorot's weights."""

    def __init__(
        self, features: int, outputs: int, depth: int, activation: Callable[[], nn.Module], gain: float
    ) -> None:
        super().__init__()
        self.input = nn.Linear(features, 24)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(24, 24), activation()) for _ in range(depth))
        self.output = nn.Linear(24, outputs)
        for block in self.blocks:
            nn.init.xavier_normal_(block[0].weight.data).mul_(gain)  # type: ignore[index]

    def forward(self, x: Tensor) -> Tensor:
        x = self.input(x)
        for block in self.blocks:
            x = x + block(x)
        y: Tensor = self.output(x)
        return y


class Maxout(nn.Module):
    """The largest of three linear functions for each hidden unit (Goodfellow et al., arXiv:1302.4389)."""

    def __init__(self, features: int, outputs: int, width: int = 12) -> None:
        super().__init__()
        self.hidden, self.output = nn.Linear(features, 3 * width), nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.output(self.hidden(x).unflatten(1, (-1, 3)).amax(dim=2))
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


class Reservoir(nn.Module):
    """A random recurrent cell that is not trained, and a readout of all its states that is."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.RNN(8, 64, batch_first=True).requires_grad_(False)
        self.readout = dense([8 * 64, 24, 10], nn.Tanh)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.readout(self.cell(x)[0].flatten(1))
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


class Variational(nn.Module):
    """An autoencoder with a random code; the output is the image, the code's means and its log variances."""

    def __init__(self, code: int = 8) -> None:
        super().__init__()
        self.encoder = dense([64, 48, 2 * code], nn.ELU)
        self.decoder = dense([code, 48, 64], nn.ELU)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        code = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        return torch.cat([self.decoder(code), mean, log_variance], dim=1)


class Codebook(nn.Module):
    """An autoencoder whose code is the nearest of 16 learnt vectors. Without a bypass, nothing trains its encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = dense([64, 32, 4], nn.Tanh)
        self.entries = nn.Embedding(16, 4)
        self.decoder = dense([4, 48, 64], nn.Tanh)

    def forward(self, x: Tensor) -> Tensor:
        nearest = torch.cdist(self.encoder(x), self.entries.weight).argmin(dim=1)
        y: Tensor = self.decoder(self.entries(nearest))
        return y


class FirstStates(nn.Module):
    """Two recurrent layers, of which the output by mistake reads the first one's states."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.upper = nn.LSTM(8, 24, batch_first=True), nn.LSTM(24, 24, batch_first=True)
        self.output = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        lower, _ = self.lower(x)
        self.upper(lower)
        y: Tensor = self.output(lower[:, -1])
        return y
