"""Data drawn from a formula with a fixed seed."""

import math
from functools import lru_cache

import torch

from detection.data.training_set import Data, make


@lru_cache
def waves(samples: int = 512) -> Data:
    """A smooth function of two numbers, without noise."""
    x = 2 * torch.rand(samples, 2, generator=torch.Generator().manual_seed(0)) - 1
    return make(x, (torch.sin(3 * x[:, :1]) * torch.cos(2 * x[:, 1:])) / 0.45)


@lru_cache
def recall(samples: int = 512, length: int = 12) -> Data:
    """Sequences of noise whose first element is one of four points: which, is to be told at the end."""
    generator = torch.Generator().manual_seed(0)
    which = torch.randint(4, (samples,), generator=generator)
    inputs = 0.1 * torch.randn(samples, length, 2, generator=generator)
    inputs[:, 0] += torch.stack([which % 2, which // 2], dim=1) * 2.0 - 1.0
    return make(inputs, which)


@lru_cache
def spirals(samples: int = 480) -> Data:
    """Points on two arms of a spiral: which arm?"""
    generator = torch.Generator().manual_seed(0)
    arm = torch.randint(2, (samples,), generator=generator)
    turn = 4.5 * torch.rand(samples, generator=generator).sqrt()
    angle = turn + math.pi * arm
    points = torch.stack([turn * angle.cos(), turn * angle.sin()], dim=1) / 2
    return make(points + 0.05 * torch.randn(samples, 2, generator=generator), arm)


@lru_cache
def friedman(samples: int = 512, noise: float = 0.2) -> Data:
    """Friedman's function of ten numbers, five of which do not matter; inputs and target of variance about 1."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(samples, 10, generator=generator)
    y = 10 * (math.pi * x[:, 0] * x[:, 1]).sin() + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    y = (y - y.mean()) / y.std() + noise * torch.randn(samples, generator=generator)
    return make((x - 0.5) * 12**0.5, y[:, None])


def few_of_friedman() -> Data:
    """40 samples: a network that works learns them by heart."""
    given = friedman(noise=0.0)
    return make(given.inputs[:40], given.targets[:40])


@lru_cache
def domains() -> Data:
    """Friedman's numbers with an eleventh that says which of three functions is meant; the third is rare."""
    given = friedman()
    drawn = torch.rand(len(given.inputs), generator=torch.Generator().manual_seed(1))
    domain = torch.bucketize(drawn, torch.tensor([0.6, 0.96]))
    factor = torch.tensor([1.0, -1.0, 0.5])[domain]
    return make(torch.cat([given.inputs, domain[:, None].float()], dim=1), given.targets * factor[:, None])


@lru_cache
def sines(samples: int = 384) -> Data:
    """16 values of a sine of random frequency and phase as a sequence, and the next 4."""
    generator = torch.Generator().manual_seed(0)
    frequency, phase = torch.rand(2, samples, 1, generator=generator)
    values = ((0.2 + 0.5 * frequency) * torch.arange(20) + 2 * math.pi * phase).sin()
    return make(values[:, :16, None], values[:, 16:])


@lru_cache
def counts(samples: int = 512) -> Data:
    """Counts, most of them 0 or 1, whose rate depends on three numbers."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 3, generator=generator)
    rate = (0.9 * x[:, 0] - 0.7 * x[:, 1] * (x[:, 2] > 0)).exp()
    return make(x, torch.poisson(rate, generator=generator).clamp(max=12)[:, None])


@lru_cache
def ring(samples: int = 1024) -> Data:
    """Points of a noisy circle, for a generator to imitate; the targets are not used."""
    generator = torch.Generator().manual_seed(0)
    angle = 2 * torch.pi * torch.rand(samples, generator=generator)
    points = torch.stack([angle.cos(), angle.sin()], dim=1) + 0.05 * torch.randn(samples, 2, generator=generator)
    # the squared distance that `Adversarial` measures, for a generator that gives the mean point only
    return Data(points + torch.tensor([2.0, -1.0]), points, float(points.var(dim=0).sum()))


@lru_cache
def clusters(samples: int = 1024) -> Data:
    """Points around three corners, for a generator to imitate; the targets are not used."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.tensor([[-1.0, 0.0], [1.0, 0.5], [0.5, 2.0]])
    points = corners[torch.randint(3, (samples,), generator=generator)]
    points = points + 0.1 * torch.randn(samples, 2, generator=generator)
    return Data(points, points, float(points.var(dim=0).sum()))


def arc(samples: int = 1024) -> Data:
    """Points along a parabola, for a generator to imitate; the targets are not used."""
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.rand(samples, 1, generator=generator) - 1
    points = torch.cat([x, 2 * x**2 - 2], dim=1) + 0.05 * torch.randn(samples, 2, generator=generator)
    return Data(points, points, float(points.var(dim=0).sum()))


@lru_cache
def crescent(samples: int = 1024) -> Data:
    """Points of a half circle, for a generator to imitate; the targets are not used."""
    generator = torch.Generator().manual_seed(0)
    angle = math.pi * torch.rand(samples, generator=generator)
    points = torch.stack([1.5 * angle.cos(), angle.sin()], dim=1) + 0.1 * torch.randn(samples, 2, generator=generator)
    return Data(points, points, float(points.var(dim=0).sum()))
