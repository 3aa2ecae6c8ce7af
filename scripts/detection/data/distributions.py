"""Points whose density, or its gradient, is known. The constant loss is of what the recipe's objective is."""

import math
from functools import lru_cache

import torch

from detection.data.training_set import Data, make


@lru_cache
def thin_parabola(samples: int = 1024, wide: float = 0.3, thin: float = 0.03) -> Data:
    """Points on a parabola, so thin that a good density is far above 1. The targets are their log densities.

    The constant loss is the divergence of the best normal density.
    """
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, samples, generator=generator)
    u, noise = wide * first, thin * second
    points = torch.stack([u, 4 * u.square() + noise], dim=1)
    normal = torch.distributions.Normal(0.0, 1.0)
    log_density = normal.log_prob(first) - math.log(wide) + normal.log_prob(second) - math.log(thin)
    covariance = torch.cov(points.t().double())
    of_normal = 0.5 * float(torch.logdet(2 * math.pi * math.e * covariance))
    return Data(points, log_density[:, None], of_normal + float(log_density.mean()))


@lru_cache
def two_hills(samples: int = 512, spread: float = 0.5) -> Data:
    """Points of two normal distributions; the targets are the gradients of their log density, for judging alone."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[-1.0, 0.0], [1.0, 0.5]])
    points = centres[torch.randint(2, (samples,), generator=generator)]
    points = points + spread * torch.randn(samples, 2, generator=generator)
    apart = centres[None] - points[:, None]
    shares = (-apart.square().sum(dim=2) / (2 * spread**2)).softmax(dim=1)
    return make(points, (shares[:, :, None] * apart).sum(dim=1) / spread**2)


@lru_cache
def either_root(samples: int = 512, noise: float = 0.05) -> Data:
    """One number whose sign nothing tells. The constant loss is the divergence of a normal density."""
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.rand(samples, 1, generator=generator) - 1
    sign = 2.0 * torch.randint(2, (samples, 1), generator=generator) - 1
    y = sign * (1 + 0.5 * torch.sin(3 * x)) + noise * torch.randn(samples, 1, generator=generator)
    own = math.log(2) + 0.5 * math.log(2 * math.pi * math.e * noise**2)
    return Data(x, y, 0.5 * math.log(2 * math.pi * math.e * float(y.var())) - own)


def known_entropy(noise: float = 0.05) -> float:
    """Return the entropy of `either_root` given its input."""
    return math.log(2) + 0.5 * math.log(2 * math.pi * math.e * noise**2)
