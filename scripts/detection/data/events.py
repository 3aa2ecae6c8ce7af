"""Grades, lives that end or are lost from sight, counts, rows of different lengths, graphs."""

import math
from functools import lru_cache

import torch

from detection.data.tables import diabetes
from detection.data.training_set import Data, make


@lru_cache
def grades(steps: int = 5) -> Data:
    """The illness of `diabetes` in grades of which each is worse than the one before."""
    given = diabetes()
    edges = given.targets.quantile(torch.linspace(0, 1, steps + 1)[1:-1])
    return make(given.inputs, torch.bucketize(given.targets[:, 0], edges))


@lru_cache
def events(samples: int = 400) -> Data:
    """How long someone was seen, and whether the end was; a third number is the true risk.

    The constant loss is that of equal risks, less that of the true ones.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 6, generator=generator)
    risk = 1.5 * x[:, 0] - x[:, 1] * x[:, 2]
    lived = torch.rand(samples, generator=generator).log().neg() * (-risk).exp()
    lost = 2 * torch.rand(samples, generator=generator)
    seen = (lived <= lost).float()
    time = torch.minimum(lived, lost)
    at_risk = time[None] >= time[:, None]
    true = risk.expand(samples, -1).masked_fill(~at_risk, -torch.inf).logsumexp(dim=1) - risk
    gained = at_risk.sum(dim=1).double().log() - true
    return Data(x, torch.stack([time, seen, risk], dim=1), float((seen * gained).sum() / seen.sum()))


@lru_cache
def large_counts(samples: int = 512) -> Data:
    """Counts around a hundred. The constant loss is their variance relative to their mean."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 3, generator=generator)
    y = torch.poisson((4.6 + 0.4 * torch.tanh(x[:, :1]) + 0.2 * x[:, 1:2]).exp(), generator=generator)
    return Data(x, y, float(y.var() / y.mean()))


@lru_cache
def anomalies(samples: int = 2000) -> Data:
    """Points of which one in a hundred lies apart."""
    generator = torch.Generator().manual_seed(0)
    rare = torch.rand(samples, generator=generator) < 0.01
    x = torch.randn(samples, 8, generator=generator)
    x[rare, :3] += 2.5
    return make(x, rare.long())


@lru_cache
def ragged(samples: int = 320, longest: int = 12) -> Data:
    """Rows of different lengths, zeros after their end: is the sum of their second half the larger?

    The first number of each row is its length.
    """
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, longest + 1, (samples, 1), generator=generator)
    place = torch.arange(longest)
    x = torch.randn(samples, longest, generator=generator) * (place < lengths)
    later = (place >= lengths // 2).float()
    y = ((2 * later - 1) * x).sum(dim=1) > 0
    return make(torch.cat([lengths.float(), x], dim=1), y.long())


@lru_cache
def tapped(samples: int = 256, length: int = 12, symbols: int = 4) -> Data:
    """A noisy row in which each of three symbols lasts for some moments: which three?

    Symbols count from 1. The constant loss is that of a uniform guess of all three.
    """
    generator = torch.Generator().manual_seed(0)
    told = torch.zeros(samples, 3, dtype=torch.long)
    told[:, 0] = torch.randint(symbols, (samples,), generator=generator)
    for place in (1, 2):  # no symbol twice in a row: nothing would tell them apart
        told[:, place] = (told[:, place - 1] + torch.randint(1, symbols, (samples,), generator=generator)) % symbols
    cuts = torch.stack(
        [torch.randint(2, 5, (samples,), generator=generator), torch.randint(6, 10, (samples,), generator=generator)]
    )
    part = (torch.arange(length)[None] >= cuts[0][:, None]).long() + (torch.arange(length)[None] >= cuts[1][:, None])
    x = torch.eye(symbols)[told.gather(1, part)] + 0.2 * torch.randn(samples, length, symbols, generator=generator)
    return Data(x, told + 1, 3 * math.log(symbols))


@lru_cache
def graphs(samples: int = 256, nodes: int = 8) -> Data:
    """Symmetric graphs whose nodes have three numbers, beside their row of edges: the sum over edges of products."""
    generator = torch.Generator().manual_seed(0)
    edges = torch.rand(samples, nodes, nodes, generator=generator).tril(-1) > 0.6
    edges = (edges | edges.transpose(1, 2)).float()
    x = torch.randn(samples, nodes, 3, generator=generator)
    y = torch.einsum("bij,bi,bj->b", edges, x[:, :, 0], x[:, :, 1])
    y = (y - y.mean()) / y.std()
    return make(torch.cat([x, edges], dim=2), y[:, None])
