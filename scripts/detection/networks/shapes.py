"""Rows of different lengths, graphs, and layers that are uncommon elsewhere here."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from detection.networks.attention import Block
from detection.networks.dense import dense
from detection.networks.weights import he, initialized


class Packed(nn.Module):
    """A recurrent cell over rows of which the first number is the length."""

    def __init__(self, cell: type[nn.RNNBase], classes: int) -> None:
        super().__init__()
        self.cell = cell(1, 24, batch_first=True)  # type: ignore[arg-type, call-arg]
        self.output = nn.Linear(24, classes)

    def forward(self, x: Tensor) -> Tensor:
        packed = pack_padded_sequence(x[:, 1:, None], x[:, 0].long(), batch_first=True, enforce_sorted=False)
        states = pad_packed_sequence(self.cell(packed)[0], batch_first=True)[0]
        y: Tensor = self.output(states[torch.arange(len(x)), x[:, 0].long() - 1])
        return y


class Temporal(nn.Module):
    """Convolutions over what came before, each twice as far apart as the last (Bai et al., arXiv:1803.01271)."""

    def __init__(self, features: int, outputs: int, depth: int = 3, width: int = 16) -> None:
        super().__init__()
        sizes = [features] + [width] * depth
        self.layers = nn.ModuleList(
            nn.Conv1d(sizes[i], sizes[i + 1], 3, dilation=2**i, padding=2 ** (i + 1)) for i in range(depth)
        )
        self.output = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = x.transpose(1, 2)
        for index, layer in enumerate(self.layers):
            y = F.silu(layer(h)[..., : h.shape[2]])
            h = h + y if index else y
        y: Tensor = self.output(h[..., -1])  # type: ignore[no-redef]
        return y


class Listening(nn.Module):
    """Log probabilities of symbols, or of none, at each moment: (time, batch, symbols + 1)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.cell = nn.GRU(features, 24, batch_first=True, bidirectional=True)
        self.output = nn.Linear(48, features + 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.output(self.cell(x)[0]).log_softmax(dim=2)
        return y.transpose(0, 1)


class Messages(nn.Module):
    """Nodes hear what one network makes of each pair that an edge joins (Gilmer et al., arXiv:1704.01212)."""

    def __init__(self, rounds: int = 2, width: int = 24) -> None:
        super().__init__()
        self.embedding = nn.Linear(3, width)
        self.message, self.update = dense([2 * width, width, width], nn.SiLU), dense([2 * width, width, width], nn.SiLU)
        self.output = dense([width, width, 1], nn.SiLU)
        self.rounds = rounds

    def forward(self, x: Tensor) -> Tensor:
        h, edges = self.embedding(x[:, :, :3]), x[:, :, 3:]
        for _ in range(self.rounds):
            pairs = torch.cat(
                [h[:, :, None].expand(-1, -1, h.shape[1], -1), h[:, None].expand(-1, h.shape[1], -1, -1)], -1
            )
            heard = (edges[..., None] * self.message(pairs)).sum(dim=2)
            h = h + self.update(torch.cat([h, heard], dim=2))
        y: Tensor = self.output(h.sum(dim=1))
        return y


class GraphAttention(nn.Module):
    """Attention along the edges, and to the node itself, alone: all other logits are minus infinity."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.embedding = dense([3, width, width], nn.GELU)
        self.blocks = nn.ModuleList(nn.ModuleList(nn.Linear(width, width) for _ in range(4)) for _ in range(2))
        self.output = dense([width, 32, 1], nn.GELU)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embedding(x[:, :, :3])
        apart = (x[:, :, 3:] + torch.eye(h.shape[1], dtype=x.dtype)) == 0
        for query, key, value, dense_ in self.blocks:  # type: ignore[misc]
            logits = (query(h) @ key(h).transpose(1, 2)) / math.sqrt(h.shape[2])  # type: ignore[has-type]
            h = h + F.gelu(dense_(h + logits.masked_fill(apart, -torch.inf).softmax(dim=2) @ value(h)))  # type: ignore[has-type]
        y: Tensor = self.output(h.sum(dim=1))
        return y


class WithClassToken(nn.Module):
    """A transformer over patches of 2 by 2 pixels and a trained vector, at which the class is read."""

    def __init__(self, depth: int = 2, width: int = 24) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, stride=2)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(0.02 * torch.randn(1, 17, width))
        self.blocks = nn.ModuleList(Block(width, 3, residual=True, norm=True) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, 10)
        nn.init.zeros_(self.output.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = self.patches(x).flatten(2).transpose(1, 2)
        h = torch.cat([self.token.expand(len(h), -1, -1), h], dim=1) + self.places
        for block in self.blocks:
            h = block(h)
        y: Tensor = self.output(self.norm(h[:, 0]))
        return y


class Fixup(nn.Module):
    """Residual blocks without norm: zero last layers, scalar shifts and a scale (Zhang et al., arXiv:1901.09321)."""

    def __init__(self, features: int, outputs: int, depth: int, width: int = 24) -> None:
        super().__init__()
        self.input = nn.Linear(features, width)
        self.first = nn.ModuleList(
            initialized(nn.Linear(width, width, bias=False), he(depth**-0.5)) for _ in range(depth)
        )
        self.second = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(depth))
        self.shifts = nn.Parameter(torch.zeros(depth, 4))
        self.scales = nn.Parameter(torch.ones(depth))
        self.output = nn.Linear(width, outputs)
        for layer in self.second:
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        x = self.input(x)
        for index, (first, second) in enumerate(zip(self.first, self.second, strict=True)):
            a, b, c, d = self.shifts[index]
            x = x + self.scales[index] * second(F.elu(first(x + a) + b) + c) + d
        y: Tensor = self.output(x)
        return y


class Shared(nn.Module):
    """One block, used again and again (Lan et al., arXiv:1909.11942)."""

    def __init__(self, times: int = 4, width: int = 24) -> None:
        super().__init__()
        self.embedding = nn.Linear(8, width)
        self.places = nn.Parameter(0.3 * torch.randn(8, width))
        self.block = Block(width, 2, residual=True, norm=True)
        self.output = nn.Linear(width, 10)
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        h = self.embedding(x) + self.places
        for _ in range(self.times):
            h = self.block(h)
        y: Tensor = self.output(h.mean(dim=1))
        return y


class Gates(nn.Module):
    """Hidden layers times a gate, a piecewise linear sigmoid that is exactly 0 or 1 outside ±3."""

    def __init__(self, features: int, outputs: int, width: int = 48) -> None:
        super().__init__()
        self.values = nn.ModuleList([nn.Linear(features, width), nn.Linear(width, width)])
        self.gates = nn.ModuleList([nn.Linear(features, width), nn.Linear(width, width)])
        self.output = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        for value, gate in zip(self.values, self.gates, strict=True):
            x = value(x) * F.hardsigmoid(2 * gate(x))
        y: Tensor = self.output(x)
        return y


class Winners(nn.Module):
    """Convolution channels of which at each place only the two largest stay."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, channels, 3, padding=1), nn.Conv2d(channels, channels, 3, padding=1)
        self.output = nn.Linear(16 * channels, 10)

    @staticmethod
    def largest(x: Tensor) -> Tensor:
        return torch.where(x >= x.topk(2, dim=1).values[:, -1:], x, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool2d(self.largest(self.first(x)), 2)
        y: Tensor = self.output(self.largest(self.second(h)).flatten(1))
        return y


def normed_weights() -> nn.Module:
    """Directions and lengths of the weights apart from one another."""
    net = dense([64, 48, 48, 10], nn.ELU)
    for layer in (net[0], net[2], net[4]):  # type: ignore[index]
        weight_norm(layer)
    return net


def bounded_weights() -> nn.Module:
    """Matrices whose largest singular value is 1, and a trained factor at the end."""
    layers = [spectral_norm(nn.Linear(13, 32)), nn.ELU(), spectral_norm(nn.Linear(32, 32)), nn.ELU()]
    return nn.Sequential(*layers, nn.Linear(32, 3))
