"""Another network's outputs as targets: a teacher's, an average of the own weights."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection import data
from detection.losses import cross_entropy
from detection.methods import average, taught
from detection.networks.convolutional import ConvNet
from detection.networks.dense import dense
from detection.networks.pretrained import Student, taught_by_digits, with_average
from detection.networks.weights import he, initialized
from detection.optimizers import adam, sgd
from detection.schedules import cosine

TEMPERATURE = 4.0


def soft_targets(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    """The teacher's probabilities at a high temperature; no labels (Hinton et al., arXiv:1503.02531)."""
    own, told = ((logits / TEMPERATURE).log_softmax(dim=1) for logits in net(x))
    return TEMPERATURE**2 * F.kl_div(own, told, reduction="batchmean", log_target=True)


def hints(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    own, told = net(x)
    return F.mse_loss(own, told)


def relative_hints(net: Any, x: Tensor, y: Tensor) -> Tensor:
    """What is not explained of the variance of the teacher's outputs, which are far from 0."""
    own, told = net(x)
    return F.mse_loss(own, told) / told.var(dim=0, correction=0).mean()  # type: ignore[no-any-return]


def far_teacher() -> nn.Module:
    """A random network with an offset, and one that is to give what it gives."""
    teacher = initialized(dense([64, 64, 16], nn.Tanh), he())
    with torch.no_grad():
        teacher[-1].bias.fill_(3.0)  # type: ignore[index]
    return Student(dense([64, 96, 16], nn.Tanh), teacher)


def mean_teacher(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    """Labels for a tenth of the batch; for all of it, to agree with the average's probabilities (Tarvainen 2017)."""
    known = max(1, len(x) // 10)
    with torch.no_grad():
        told = net["mean"](x + 0.2 * torch.randn_like(x)).softmax(dim=1)
    own = net["net"](x + 0.2 * torch.randn_like(x))
    return cross_entropy(own[:known], y[:known]) + min(1.0, step / 150) * 8 * F.mse_loss(own.softmax(dim=1), told)


def own_labels(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    """A quarter has labels; of the rest those that the network is sure of: at first none (Sohn et al. 2020)."""
    known = len(x) // 4
    with torch.no_grad():
        sure, told = net(x).log_softmax(dim=1).exp().max(dim=1)
    disturbed = net(x * (torch.rand_like(x) < 0.8))
    each = F.cross_entropy(disturbed, told, reduction="none") * (sure > 0.9)
    return cross_entropy(net(x[:known]), y[:known]) + each.mean()  # type: ignore[no-any-return]


def move_mean(net: Any, step: int) -> None:
    average(net["mean"], net["net"], 0.95)


def late_mean(net: Any, step: int) -> None:
    """A plain mean of the weights from step 150 on (Izmailov et al., arXiv:1803.05407)."""
    if step >= 150:
        average(net["mean"], net["net"], 1 - 1 / (step - 149))


def own_loss(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    return cross_entropy(net["net"](x), y)


RECIPES = [
    taught(
        "distilled",
        taught_by_digits,
        adam(5e-3),
        soft_targets,
        lambda net, x, y: cross_entropy(net(x)[0], y),
        data=data.digits,
    ),
    taught(
        "far_teacher",
        far_teacher,
        adam(5e-3),
        hints,
        relative_hints,
        data=lambda: data.judged(data.digits(), 1.0),
        schedule=cosine(300),
    ),
    taught(
        "mean_teacher",
        lambda: with_average(dense([64, 64, 48, 10], nn.SiLU)),
        adam(3e-3),
        mean_teacher,
        lambda net, x, y: cross_entropy(net["net"](x), y),
        data=data.digits,
        after=move_mean,
        steps=250,
    ),
    taught(
        "own_labels",
        lambda: dense([64, 64, 10]),
        sgd(0.1, momentum=0.9),
        own_labels,
        lambda net, x, y: cross_entropy(net(x), y),
        data=data.digits,
    ),
    taught(
        "late_average",
        lambda: with_average(ConvNet([8, 12], F.silu)),
        sgd(0.1, momentum=0.9),
        own_loss,
        lambda net, x, y: cross_entropy(net["net"](x), y),
        data=data.digit_images,
        batch_size=32,
        steps=250,
        after=late_mean,
        schedule=lambda step: 1.0 if step < 150 else 0.3,
    ),
]
