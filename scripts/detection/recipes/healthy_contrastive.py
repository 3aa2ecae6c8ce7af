"""Samples that are compared with one another: nearer, farther, the same or not."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection import data
from detection.data import Data
from detection.losses import cross_entropy
from detection.methods import average, taught
from detection.networks.dense import CosineLogits, dense
from detection.networks.pairs import Factors, SkipGram, TwoTowers, byol
from detection.optimizers import adam, adamw, optimizer, sgd
from detection.schedules import cosine

MARGIN = 0.5
CHUNK = 64


def disturbed(x: Tensor) -> Tensor:
    """Noise, and a quarter of the numbers erased."""
    return (x + 0.3 * torch.randn_like(x)) * (torch.rand_like(x) < 0.75)


def info_nce(first: Tensor, second: Tensor, temperature: float = 0.2) -> Tensor:
    """Which of the second view's samples belongs to each of the first's (van den Oord et al., arXiv:1807.03748)?"""
    logits = F.normalize(first, dim=1) @ F.normalize(second, dim=1).t() / temperature
    return F.cross_entropy(logits, torch.arange(len(logits)))


def simclr(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    return info_nce(net(disturbed(x)), net(disturbed(x)))


def by_chunks(net: Any, x: Tensor, y: Tensor) -> Tensor:
    losses = [info_nce(net(part), net(disturbed(part))) for part in x.split(CHUNK) if len(part) == CHUNK]
    return torch.stack(losses).mean()


def towers(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    """Both directions, with a trained temperature (Radford et al., arXiv:2103.00020)."""
    logits = net(x, y)
    here = torch.arange(len(logits))
    return (F.cross_entropy(logits, here) + F.cross_entropy(logits.t(), here)) / 2


def towers_by_chunks(net: Any, x: Tensor, y: Tensor) -> Tensor:
    parts = [(a, b) for a, b in zip(x.split(CHUNK), y.split(CHUNK), strict=True) if len(a) == CHUNK]
    return torch.stack([towers(net, a, b, 0) for a, b in parts]).mean()


def partners(y: Tensor, same: bool) -> Tensor:
    """For each sample another of its class, or of another one, drawn at random."""
    wanted = (y[:, None] == y[None]) == same
    return (torch.rand(wanted.shape) * wanted).argmax(dim=1)


def triplet(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    """Most of the losses are exactly zero once the classes lie apart, in some batches all."""
    h = net(x)
    return F.triplet_margin_loss(h, h[partners(y, True)], h[partners(y, False)], margin=MARGIN)


def pairs(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    """Squared distance of two of a class, and what is missing to a margin of two of different ones."""
    h, other = net(x), torch.randperm(len(x))
    apart = (h - h[other]).square().sum(dim=1).add(1e-12).sqrt()
    return torch.where(y == y[other], apart.square(), (1 - apart).clamp(min=0).square()).mean()


def cosine_pairs(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    h, other = net(x), torch.randperm(len(x))
    return F.cosine_embedding_loss(h, h[other], torch.where(y == y[other], 1, -1))


def same_share(given: Data) -> float:
    """How often two random samples are of a class."""
    return float((torch.bincount(given.targets).double() / len(given.targets)).square().sum())


def readout(features: Tensor, y: Tensor) -> Tensor:
    """The share of the classes' variance that no linear function of the features explains."""
    truth = F.one_hot(y).to(features.dtype)
    truth = truth - truth.mean(dim=0)
    h = features.detach() - features.detach().mean(dim=0)
    h = h / (h.norm() / len(h) ** 0.5 + 1e-9)
    weights = torch.linalg.solve(
        h.t() @ h / len(h) + 1e-3 * torch.eye(h.shape[1], dtype=h.dtype), h.t() @ truth / len(h)
    )
    return (truth - h @ weights).square().sum() / truth.square().sum()  # type: ignore[no-any-return]


def own_latent(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    """The predictor tells what an average of the network makes of another view (Grill et al., arXiv:2006.07733)."""
    first, second = disturbed(x), disturbed(x)
    with torch.no_grad():
        told = [net["target"](second), net["target"](first)]
    made = [net["predictor"](net["online"](view)) for view in (first, second)]
    return sum(
        (2 - 2 * F.cosine_similarity(a, b, dim=1).mean() for a, b in zip(made, told, strict=True)), x.new_zeros(())
    )


def redundancy(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    """The correlation of two views' units is to be the identity (Zbontar et al., arXiv:2103.03230)."""
    views = [net(disturbed(x)) for _ in range(2)]
    a, b = ((h - h.mean(dim=0)) / (h.std(dim=0) + 1e-4) for h in views)
    correlation = a.t() @ b / len(a)
    on = torch.eye(len(correlation), dtype=x.dtype)
    return ((correlation - on).square() * (on + 0.02 * (1 - on))).sum()  # type: ignore[no-any-return]


def softmax_with_angle(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    """The right class's angle grows by 0.3 before the softmax (Deng et al., arXiv:1801.07698): the loss starts high."""
    cosines = net(x) / 12
    angle = cosines.clamp(-1 + 1e-6, 1 - 1e-6).acos()
    return F.cross_entropy(16 * torch.where(F.one_hot(y, 10).bool(), (angle + 0.3).cos(), cosines), y)


def preference(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    """An item that the user took is to score above one drawn at random."""
    user, taken, other = x.unbind(dim=1)
    return F.softplus(net(user, other) - net(user, taken)).mean()


def neighbours(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    return F.binary_cross_entropy_with_logits(net(x[:, 0], x[:, 1]), y[:, 0].to(net.words.weight.dtype))


def digits_judged(constant_loss: float) -> Data:
    return data.judged(data.digits(), constant_loss)


def wine_pairs() -> Data:
    share = same_share(data.wine())
    return data.judged(data.wine(), share * (1 - share))


def move_target(net: Any, step: int) -> None:
    average(net["target"], net["online"], 0.97)


RECIPES = [
    taught(
        "simclr",
        lambda: dense([64, 96, 32], nn.ELU),
        adam(2e-3),
        simclr,
        by_chunks,
        data=lambda: digits_judged(math.log(CHUNK)),
    ),
    taught(
        "two_towers",
        TwoTowers,
        adamw(3e-3),
        towers,
        towers_by_chunks,
        data=lambda: data.judged(data.half_image(), math.log(CHUNK)),
        schedule=cosine(300, warmup=30),
    ),
    taught(
        "triplets_mostly_zero",
        lambda: dense([13, 32, 8], nn.Tanh),
        adam(5e-3),
        triplet,
        lambda net, x, y: triplet(net, x, y, 0),
        data=lambda: data.judged(data.wine(), MARGIN),
        batch_size=16,
        steps=250,
    ),
    taught(
        "siamese_pairs",
        lambda: dense([13, 24, 4], nn.SiLU),
        sgd(0.1, momentum=0.9),
        pairs,
        lambda net, x, y: pairs(net, x, y, 0),
        data=wine_pairs,
        batch_size=32,
    ),
    taught(
        "cosine_embedding",
        lambda: dense([64, 48, 16]),
        adam(3e-3),
        cosine_pairs,
        lambda net, x, y: cosine_pairs(net, x, y, 0),
        data=lambda: digits_judged(same_share(data.digits())),
    ),
    taught(
        "own_latent",
        byol,
        adam(2e-3),
        own_latent,
        lambda net, x, y: readout(net["online"](x), y),
        data=lambda: digits_judged(1.0),
        after=move_target,
    ),
    taught(
        "redundancy",
        lambda: dense([64, 64, 24], between=nn.BatchNorm1d),
        adam(2e-3),
        redundancy,
        lambda net, x, y: readout(net(x), y),
        data=lambda: digits_judged(1.0),
    ),
    taught(
        "angular_margin",
        CosineLogits,
        adam(5e-3),
        softmax_with_angle,
        lambda net, x, y: cross_entropy(net(x), y),
        data=data.digits,
    ),
    taught(
        "item_preferences",
        lambda: Factors(60, 200),
        lambda p: torch.optim.SparseAdam(list(p), lr=2e-2),
        preference,
        lambda net, x, y: preference(net, x, y, 0),
        data=data.preferences,
        batch_size=128,
    ),
    taught(
        "skip_grams",
        lambda: SkipGram(data.VOCABULARY, 12),
        optimizer("SGD", 20.0),
        neighbours,
        lambda net, x, y: neighbours(net, x, y, 0),
        data=data.skip_grams,
        batch_size=128,
        steps=400,
    ),
]
