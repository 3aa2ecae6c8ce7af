"""Fully connected networks in which a layer adds to what came before it."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection.networks.dense import dense
from detection.networks.weights import he, initialized


class ResidualStack(nn.Module):
    """x + gain * f(x), without normalisation, many times: each block multiplies the variance."""

    def __init__(self, depth: int, width: int = 48, gain: float = 1.0, zero: bool = False) -> None:
        super().__init__()
        self.input = nn.Linear(64, width)
        self.blocks = nn.ModuleList(dense([width, width, width]) for _ in range(depth))
        self.output = nn.Linear(width, 10)
        initialized(self, he())
        for block in self.blocks:
            block[-1].weight.data.mul_(0.0 if zero else gain)  # type: ignore[index]

    def forward(self, x: Tensor) -> Tensor:
        x = self.input(x)
        for block in self.blocks:
            x = x + block(x)
        y: Tensor = self.output(x)
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


class Scaled(nn.Module):
    """x + s * f(norm(x)), s a number for each channel that starts small (Touvron et al. 2021, arXiv:2103.17239)."""

    def __init__(self, features: int, outputs: int, depth: int, start: float, width: int = 24) -> None:
        super().__init__()
        self.input = nn.Linear(features, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.branches = nn.ModuleList(dense([width, 2 * width, width], nn.GELU) for _ in range(depth))
        self.strength = nn.Parameter(torch.full((depth, width), start))
        self.output = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.input(x)
        for norm, branch, strength in zip(self.norms, self.branches, self.strength, strict=True):
            x = x + strength * branch(norm(x))
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


class Layered(nn.Module):
    """x + f(x) / sqrt(depth) without norm, f one layer and a ReLU."""

    def __init__(self, features: int, outputs: int, depth: int, width: int = 24) -> None:
        super().__init__()
        self.input = nn.Linear(features, width)
        self.layers = nn.ModuleList(initialized(nn.Linear(width, width), he()) for _ in range(depth))
        self.output = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.input(x)
        for layer in self.layers:
            x = x + F.relu(layer(x)) / len(self.layers) ** 0.5
        y: Tensor = self.output(x)
        return y


class StochasticDepth(nn.Module):
    """x + f(x), each f left out of a step with probability ``p``: then it has no gradient (arXiv:1603.09382)."""

    def __init__(self, depth: int, p: float, width: int = 32) -> None:
        super().__init__()
        self.input = nn.Linear(64, width)
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), dense([width] * 3)) for _ in range(depth))
        self.output = nn.Linear(width, 10)
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        x = self.input(x)
        for block in self.blocks:
            if torch.rand(()) >= self.p:
                x = x + block(x)
        y: Tensor = self.output(x)
        return y
