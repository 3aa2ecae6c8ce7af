"""Losses of grades, lives, counts, rows and several tasks at once; targets that are far from zero."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection import data
from detection.losses import cross_entropy, focal
from detection.methods import alone, taught
from detection.networks.dense import dense
from detection.networks.shapes import Listening
from detection.networks.weights import biased, zero_output
from detection.optimizers import adam, adamw, sgd
from detection.recipe import numbers
from detection.schedules import cosine


def three_quantiles(output: Tensor, target: Tensor) -> Tensor:
    apart, share = target - output, output.new_tensor([0.1, 0.5, 0.9])
    return torch.maximum(share * apart, (share - 1) * apart).sum(dim=1).mean()


def own_variance(output: Tensor, target: Tensor) -> Tensor:
    return F.gaussian_nll_loss(output[:, :1], target, F.softplus(output[:, 1:]) + 1e-4)


def heavy_tails(output: Tensor, target: Tensor) -> Tensor:
    """Minus the log density of Student's t with three degrees of freedom and a trained width."""
    width = output[:, 1:].exp()
    return -torch.distributions.StudentT(3.0, output[:, :1], width).log_prob(target).mean()  # type: ignore[no-any-return]


def counts_in_full(output: Tensor, target: Tensor) -> Tensor:
    """Without the constant: a hundred times a hundred's logarithm below zero."""
    return F.poisson_nll_loss(output, target, log_input=True)


def relative_squares(output: Tensor, target: Tensor) -> Tensor:
    return (output.clamp(max=8.0).exp() - target).square().mean() / target.mean()


def thresholds(output: Tensor, target: Tensor) -> Tensor:
    """Is the grade above each of the four steps?"""
    above = (target[:, None] > torch.arange(4)).to(output.dtype)
    return F.binary_cross_entropy_with_logits(output, above)


def grade_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Four such questions have five answers: a constant that knows the shares has this loss at best."""
    return thresholds(output, target) / 0.577


def partial_likelihood(output: Tensor, target: Tensor) -> Tensor:
    """Who ends at each time, of those still seen (Cox 1972)."""
    time, seen = target[:, 0], target[:, 1]
    later = time[None] >= time[:, None]
    among = output[:, 0].expand(len(time), -1).masked_fill(~later, -torch.inf).logsumexp(dim=1)
    return ((among - output[:, 0]) * seen).sum() / seen.sum().clamp(min=1)


def above_the_truth(output: Tensor, target: Tensor) -> Tensor:
    """The same less that of the true risks."""
    return partial_likelihood(output, target) - partial_likelihood(target[:, 2:], target)


def alignment(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    """All ways to spread three symbols over the moments (Graves et al. 2006)."""
    output = net(x)
    return F.ctc_loss(output, y, (output.shape[0],) * len(x), (3,) * len(x), reduction="sum") / len(x)  # type: ignore[arg-type]


class Weighing(nn.Module):
    """Two tasks and a trained log variance of each (Kendall et al., arXiv:1705.07115)."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(64, 48), nn.SiLU())
        self.digit, self.ink = nn.Linear(48, 10), nn.Linear(48, 1)
        self.log_variances = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.trunk(x)
        return self.digit(h), self.ink(h)


def weighed(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    """Negative once both tasks are learnt."""
    digit, ink = net(x)
    losses = torch.stack([cross_entropy(digit, y), F.mse_loss(ink, x[:, 20:21])])
    return ((-net.log_variances).exp() * losses + 0.5 * net.log_variances).sum()  # type: ignore[no-any-return]


def overlap(output: Tensor, target: Tensor) -> Tensor:
    """One minus twice the overlap over the sum (Milletari et al., arXiv:1606.04797)."""
    p = F.logsigmoid(output).exp()
    return 1 - (2 * p * target).sum() / (p.sum() + target.sum())


def around(mean: float) -> nn.Module:
    """A network whose last bias is at the mean of the targets."""
    return biased(dense([10, 32, 32, 1], nn.SiLU), ("4", mean))


def ink() -> data.Data:
    """Where in an image, of which three quarters of the pixels are erased, there is ink."""
    pixels = data.pixels().inputs
    kept = torch.rand(pixels.shape, generator=torch.Generator().manual_seed(0)) < 0.25
    dark = (pixels > 0.5).float()
    share = float(dark.mean())
    return data.judged(data.make(pixels * kept, dark), 1 - 2 * share / (1 + share))


def one_of_ten(given: data.Data) -> data.Data:
    """The target as a row of 1 and -1; -1 everywhere costs twice the mean share of a class."""
    rows = 2 * F.one_hot(given.targets).float() - 1
    return data.judged(data.make(given.inputs, rows), 2 / rows.shape[1])


def hinge(output: Tensor, target: Tensor) -> Tensor:
    return (1 - output * target).clamp(min=0).mean()


RECIPES = [
    alone(
        "three_quantiles",
        lambda: dense([10, 48, 3], nn.SiLU),
        adam(1e-2),
        data=data.friedman,
        make=numbers,
        loss=three_quantiles,
        objective=lambda o, t: F.mse_loss(o[:, 1:2], t),
    ),
    alone(
        "own_variance_far_away",
        lambda: biased(dense([10, 48, 48, 2], nn.Tanh), ("4", 5.0)),
        adam(5e-3),
        data=lambda: data.with_targets(data.friedman(), 1.0, 6.0),
        make=numbers,
        loss=own_variance,
        objective=lambda o, t: F.mse_loss(o[:, :1], t),
    ),
    alone(
        "heavy_tails",
        lambda: dense([10, 32, 32, 2], nn.GELU),
        adam(5e-3),
        data=data.friedman,
        make=numbers,
        loss=heavy_tails,
        objective=lambda o, t: F.mse_loss(o[:, :1], t),
    ),
    alone(
        "large_counts",
        lambda: dense([3, 32, 32, 1], nn.Tanh),
        adam(1e-2),
        data=data.large_counts,
        make=numbers,
        loss=counts_in_full,
        objective=relative_squares,
    ),
    alone(
        "thresholds",
        lambda: dense([10, 32, 4], nn.SiLU),
        adam(1e-2),
        data=data.grades,
        loss=thresholds,
        objective=grade_entropy,
    ),
    alone(
        "lives",
        lambda: dense([6, 48, 48, 1], nn.SiLU),
        adamw(5e-3),
        data=data.events,
        batch_size=100,
        make=numbers,
        loss=partial_likelihood,
        objective=above_the_truth,
    ),
    taught(
        "alignment",
        lambda: Listening(4),
        adam(1e-2),
        alignment,
        lambda net, x, y: alignment(net, x, y, 0),
        data=data.tapped,
        batch_size=32,
        steps=200,
    ),
    taught(
        "weighed_tasks",
        Weighing,
        adam(5e-3),
        weighed,
        lambda net, x, y: cross_entropy(net(x)[0], y),
        data=data.digits,
    ),
    alone(
        "overlap",
        lambda: dense([64, 96, 64], nn.ELU),
        adam(5e-3),
        data=ink,
        make=numbers,
        loss=overlap,
        objective=overlap,
    ),
    alone(
        "one_in_a_hundred",
        lambda: biased(dense([8, 24, 1], nn.SiLU), ("2", -4.6)),
        adam(5e-3),
        data=lambda: data.judged(
            data.make(data.anomalies().inputs, data.anomalies().targets[:, None].float()),
            data.anomalies().constant_loss,
        ),
        make=numbers,
        loss=F.binary_cross_entropy_with_logits,
        objective=F.binary_cross_entropy_with_logits,
    ),
    alone(
        "focal_one_in_a_hundred",
        lambda: dense([8, 24, 2], nn.Tanh),
        adam(1e-2),
        data=data.anomalies,
        batch_size=128,
        loss=focal,
    ),
    alone(
        "soft_margin",
        lambda: dense([13, 24, 3], nn.ELU),
        sgd(0.1),
        data=lambda: one_of_ten(data.wine()),
        batch_size=16,
        make=numbers,
        loss=hinge,
        objective=hinge,
    ),
    alone(
        "kelvins",
        lambda: around(300.0),
        adam(2e-2),
        data=lambda: data.with_targets(data.friedman(), 10.0, 300.0),
        make=numbers,
    ),
    alone(
        "years",
        lambda: dense([3, 16, 1], nn.ELU),
        sgd(5e-3, momentum=0.9),
        data=lambda: data.with_targets(data.petal(), 3.0, 20.0),
        batch_size=16,
        make=numbers,
    ),
    alone(
        "far_and_slow",
        lambda: dense([10, 64, 64, 1], nn.ELU),
        adam(2e-2),
        data=lambda: data.with_targets(data.friedman(), 1.0, 20.0),
        make=numbers,
        schedule=cosine(400),
        steps=400,
    ),
    alone(
        "small_offset_numbers",
        lambda: biased(zero_output(dense([10, 32, 1], nn.Tanh)), ("2", 0.02)),
        adam(2e-4),
        data=lambda: data.with_targets(data.friedman(), 1e-3, 0.02),
        make=numbers,
        loss=lambda o, t: F.smooth_l1_loss(o, t, beta=1e-3),
    ),
]
