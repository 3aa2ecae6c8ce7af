"""Autoencoders, and a generator with its discriminator."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection.networks.dense import dense
from detection.networks.weights import he, initialized, xavier


def autoencoder(activation: Any = nn.ReLU, scale: float = 1.0) -> nn.Module:
    return initialized(dense([64, 48, 12, 48, 64], activation), xavier(scale))


class TiedAutoencoder(nn.Module):
    """The decoder is the encoder's matrix transposed."""

    def __init__(self, code: int = 16) -> None:
        super().__init__()
        self.encoder = nn.Linear(64, code)
        self.bias = nn.Parameter(torch.zeros(64))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.elu(self.encoder(x)), self.encoder.weight.t(), self.bias)


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


class AdversarialPair(nn.Module):
    """A generator of points from noise and a discriminator."""

    generator: nn.Module
    discriminator: nn.Module

    def __init__(self, width: int = 48, scale: float = 1.0) -> None:
        super().__init__()
        self.generator = initialized(dense([4, width, width, 2], lambda: nn.LeakyReLU(0.2)), he())
        self.discriminator = initialized(dense([2, width, width, 1], lambda: nn.LeakyReLU(0.2)), he(scale))
