"""Networks that `healthy.py` and `sick.py` do not train."""

import copy
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection.networks import constant, dense, initialized


class Apply(nn.Module):
    """Any function as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class ConvNet(nn.Module):
    """Convolutions with a functional activation, pooled to 4x4 after the first, and a linear output on all of it."""

    def __init__(self, channels: Sequence[int], activation: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise([1, *channels])
        )
        self.output = nn.Linear(16 * channels[-1], 10)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        for index, convolution in enumerate(self.convolutions):
            x = self.activation(convolution(x))
            if index == 0:
                x = F.max_pool2d(x, 2)
        y: Tensor = self.output(x.flatten(1))
        return y


class ResidualConvNet(nn.Module):
    """x + f(x) with two convolutions in f: with batch norm, or without it and each f times ``gain``."""

    def __init__(self, depth: int, width: int = 8, norm: bool = True, gain: float = 1.0) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, stride=2, padding=1)

        def convolution() -> list[nn.Module]:
            return [nn.Conv2d(width, width, 3, padding=1), *([nn.BatchNorm2d(width)] if norm else [])]

        self.blocks = nn.ModuleList(nn.Sequential(*convolution(), nn.ReLU(), *convolution()) for _ in range(depth))
        self.output = nn.Linear(width, 10)
        if not norm:
            for block in self.blocks:
                initialized(block, lambda w: nn.init.kaiming_normal_(w).mul_(gain))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        y: Tensor = self.output(x.relu().mean(dim=(2, 3)))
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


class Unrolled(nn.Module):
    """An Elman network written as a loop; the recurrent matrix is orthogonal times ``gain``."""

    def __init__(
        self, features: int, classes: int, gain: float, activation: Callable[[Tensor], Tensor] = torch.tanh
    ) -> None:
        super().__init__()
        self.read = nn.Linear(features, 32)
        self.recur = nn.Linear(32, 32, bias=False)
        self.output = nn.Linear(32, classes)
        nn.init.orthogonal_(self.recur.weight, gain)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 32)
        for now in x.unbind(dim=1):
            state = self.activation(self.read(now) + self.recur(state))
        y: Tensor = self.output(state)
        return y


class Stacked(nn.Module):
    """Recurrent layers on top of each other, and a linear output on the last state."""

    def __init__(
        self, cell: Callable[..., nn.Module], features: int, classes: int, layers: int, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.cells = nn.ModuleList(cell(24 if i else features, 24, batch_first=True) for i in range(layers))
        self.output = nn.Linear(24, classes)
        for parameter in self.cells.parameters():
            parameter.data.mul_(scale)

    def forward(self, x: Tensor) -> Tensor:
        for cell in self.cells:
            x = cell(x)[0]
        y: Tensor = self.output(x[:, -1])
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


class Experts(nn.Module):
    """Four networks of which a gate weighs the outputs, or takes one: then the gate has no gradient."""

    def __init__(self, features: int, classes: int, hard: bool = False) -> None:
        super().__init__()
        self.gate = nn.Linear(features, 4)
        self.experts = nn.ModuleList(dense([features, 16, classes]) for _ in range(4))
        self.hard = hard

    def forward(self, x: Tensor) -> Tensor:
        weights = self.gate(x)
        weights = F.one_hot(weights.argmax(dim=1), 4).to(x.dtype) if self.hard else weights.softmax(dim=1)
        outputs = torch.stack([expert(x) for expert in self.experts], dim=1)
        return (weights[:, :, None] * outputs).sum(dim=1)


class LowRank(nn.Module):
    """A frozen random layer with a trained correction of low rank: its second factor starts at zero, or both do."""

    def __init__(self, both_zero: bool = False) -> None:
        super().__init__()
        self.base = nn.Linear(64, 96).requires_grad_(False)
        self.down, self.up = nn.Linear(64, 4, bias=False), nn.Linear(4, 96, bias=False)
        initialized(self.up, constant(0.0))
        if both_zero:
            initialized(self.down, constant(0.0))
        self.output = nn.Linear(96, 10)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.output(F.relu(self.base(x) + self.up(self.down(x))))
        return y


class FrozenEncoder(nn.Module):
    """Convolutions that are not trained, and two dense layers that are."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        self.encoder.requires_grad_(False)
        self.head = dense([12 * 16, 32, 10], nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.encoder(x))
        return y


class ReZero(nn.Module):
    """x + a f(x) with a trained number a that starts at 0 (Bachlechner et al. 2020, arXiv:2003.04887)."""

    def __init__(self, features: int, classes: int, depth: int, width: int = 24) -> None:
        super().__init__()
        self.input = nn.Linear(features, width)
        self.blocks = nn.ModuleList(dense([width, width, width], nn.Tanh) for _ in range(depth))
        self.strength = nn.Parameter(torch.zeros(depth))
        self.output = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.input(x)
        for strength, block in zip(self.strength, self.blocks, strict=True):
            x = x + strength * block(x)
        y: Tensor = self.output(x)
        return y


class Highway(nn.Module):
    """Layers that mostly copy their input at first: g f(x) + (1 - g) x, the gate g near 0.05."""

    def __init__(self, features: int, classes: int, depth: int, width: int = 24) -> None:
        super().__init__()
        self.input = nn.Linear(features, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.gates = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.output = nn.Linear(width, classes)
        for gate in self.gates:
            initialized(gate, lambda w: w, -3.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.input(x)
        for layer, gate in zip(self.layers, self.gates, strict=True):
            g = gate(x).sigmoid()
            x = g * layer(x).relu() + (1 - g) * x
        y: Tensor = self.output(x)
        return y


class TiedAutoencoder(nn.Module):
    """The decoder is the encoder's matrix transposed."""

    def __init__(self, code: int = 16) -> None:
        super().__init__()
        self.encoder = nn.Linear(64, code)
        self.bias = nn.Parameter(torch.zeros(64))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.elu(self.encoder(x)), self.encoder.weight.t(), self.bias)


class WithFrozenCopy(nn.Module):
    """A network that keeps a copy of its first weights, as averages of weights do; no forward calls it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.trained = net
        self.kept = copy.deepcopy(net).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.trained(x)
        return y


class UnusedLayer(nn.Module):
    """Two recurrent layers side by side; by mistake the output reads the first one's state twice."""

    def __init__(self) -> None:
        super().__init__()
        self.forwards, self.backwards = (nn.GRU(8, 24, batch_first=True) for _ in range(2))
        self.output = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        forwards, _ = self.forwards(x)
        self.backwards(x.flip(1))
        y: Tensor = self.output(torch.cat([forwards[:, -1], forwards[:, -1]], dim=1))
        return y
