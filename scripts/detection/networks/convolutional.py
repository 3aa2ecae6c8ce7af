"""Convolutional networks, most of them for digits."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from detection.networks.dense import dense
from detection.networks.weights import initialized


class PlainCNN(nn.Module):
    """3x3 convolutions without normalisation, and a linear output on the mean over space."""

    def __init__(self, channels: Sequence[int], activation: Callable[[], nn.Module] = nn.ReLU) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise([1, *channels]):
            layers += [nn.Conv2d(before, after, 3, padding=1), activation()]
        self.features = nn.Sequential(*layers)
        self.output = nn.Linear(channels[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.output(self.features(x).mean(dim=(2, 3)))
        return y


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


class GroupNormNet(nn.Module):
    """Two convolutions with a norm over all channels of a sample, and a linear output on the mean over space."""

    def __init__(self, groups: int = 1, activation: Any = F.gelu) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 12, 3, padding=1), nn.Conv2d(12, 16, 3, stride=2, padding=1)
        self.first_norm, self.second_norm = nn.GroupNorm(groups, 12), nn.GroupNorm(groups, 16)
        self.output = nn.Linear(16 * 4, 10)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.first_norm(self.first(x)))
        x = self.activation(self.second_norm(self.second(x)))
        y: Tensor = self.output(F.avg_pool2d(x, 2).flatten(1))
        return y


class Dilated(nn.Module):
    """Gated convolutions over time with ever wider gaps; (batch, time, 1) to (batch, 10)."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.input = nn.Conv1d(1, width, 1)
        self.layers = nn.ModuleList(nn.Conv1d(width, 2 * width, 3, padding=2**i, dilation=2**i) for i in range(4))
        self.output = nn.Linear(8 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.input(x.transpose(1, 2))
        for layer in self.layers:
            x = x + F.glu(layer(x), dim=1)
        y: Tensor = self.output(F.avg_pool1d(x, 8).flatten(1))
        return y
