"""Functions that equations define, and families of functions."""

import math
from functools import lru_cache

import torch

from detection.data.training_set import Data, make


@lru_cache
def circle_walls(samples: int = 400) -> Data:
    """Points of a square; the targets, for judging alone, solve Poisson's equation with walls at zero."""
    x = torch.rand(samples, 2, generator=torch.Generator().manual_seed(0))
    return make(x, torch.sin(math.pi * x[:, :1]) * torch.sin(math.pi * x[:, 1:]))


@lru_cache
def pendulum(samples: int = 400) -> Data:
    """Angle and speed of a pendulum, and how they change."""
    generator = torch.Generator().manual_seed(0)
    state = (torch.rand(samples, 2, generator=generator) - 0.5) * torch.tensor([4.0, 3.0])
    return make(state, torch.stack([state[:, 1], -state[:, 0].sin()], dim=1))


@lru_cache
def rotations(samples: int = 400) -> Data:
    """Points, and where a flow that turns faster near the middle takes them in a unit of time."""
    x = torch.randn(samples, 2, generator=torch.Generator().manual_seed(0))
    angle = 2.5 * (-x.square().sum(dim=1) / 2).exp()
    turned = torch.stack([angle.cos() * x[:, 0] - angle.sin() * x[:, 1], angle.sin() * x[:, 0] + angle.cos() * x[:, 1]])
    return make(x, turned.t().contiguous())


@lru_cache
def families_of_sines(tasks: int = 160, points: int = 10) -> Data:
    """Sines of random height and phase: five points to learn from, five to be judged by, (x, y) each.

    The constant loss is the variance of the values.
    """
    generator = torch.Generator().manual_seed(0)
    height, phase = torch.rand(2, tasks, 1, generator=generator)
    x = 4 * torch.rand(tasks, points, generator=generator) - 2
    y = (0.5 + height) * torch.sin(2 * x + 1.2 * phase)
    return Data(torch.stack([x, y], dim=2), y, float(y.var()))
