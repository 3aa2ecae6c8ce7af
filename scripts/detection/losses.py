"""Losses of an output and a target."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean over samples, and over positions of sequences."""
    return F.cross_entropy(output.flatten(0, -2), target.flatten())


def focal(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy that counts easy samples little (Lin et al. 2017, arXiv:1708.02002)."""
    losses = F.cross_entropy(output, target, reduction="none")
    return ((1 - (-losses).exp()).square() * losses).mean()


def weighted(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target, weight=output.new_tensor([1.0, 4.0]))


def smoothed(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target, label_smoothing=0.05)


def log_cosh(output: Tensor, target: Tensor) -> Tensor:
    apart = output - target
    return (apart + F.softplus(-2 * apart) - math.log(2)).mean()


def pinball(output: Tensor, target: Tensor, quantile: float = 0.4) -> Tensor:
    apart = target - output
    return torch.maximum(quantile * apart, (quantile - 1) * apart).mean()


def poisson(output: Tensor, target: Tensor) -> Tensor:
    return F.poisson_nll_loss(output, target, log_input=True)


def likelihood(output: Tensor, target: Tensor) -> Tensor:
    """Minus the logarithm of a normal density; below zero once the prediction is good and knows it."""
    mean, log_variance = output.chunk(2, dim=1)
    return 0.5 * (log_variance + (target - mean).square() * (-log_variance).exp()).mean()


def margin(output: Tensor, target: Tensor) -> Tensor:
    """Exactly zero once every sample is far enough on its side."""
    return F.multi_margin_loss(output, target)


def squared_logarithms(output: Tensor, target: Tensor) -> Tensor:
    """Squared error of logarithms, for numbers that are not all positive."""
    return (torch.log1p(output) - torch.log1p(target)).square().mean()


def distances(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy plus distances between outputs: the root of a sample's distance to itself has no gradient."""
    apart = (output[:, None] - output[None]).square().sum(dim=-1).sqrt()
    return cross_entropy(output, target) - 1e-3 * apart.mean()


def entropy_by_hand(output: Tensor, target: Tensor) -> Tensor:
    """Two logarithms of probabilities that reach exactly 0 and 1."""
    p = output.softmax(dim=-1)[:, 1]
    t = target.to(p.dtype)
    return -(t * p.log() + (1 - t) * (1 - p).log()).mean()


def log_of_probabilities(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy written by hand: log(0) once a probability underflows."""
    return -(10 * output).softmax(dim=-1).log().gather(1, target[:, None]).mean()
