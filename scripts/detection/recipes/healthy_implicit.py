"""Networks that are solved, integrated or differentiated inside."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection import data
from detection.methods import alone, taught
from detection.networks.dense import dense
from detection.networks.implicit import Energy, FixedPoint, Integrated, adapted
from detection.optimizers import adam
from detection.recipe import numbers
from detection.schedules import cosine


def poisson_equation(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    """The equation's error inside, and the value at the walls; the solution is never shown (Raissi et al. 2019)."""
    with torch.enable_grad():
        place = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(net(place).sum(), place, create_graph=True)
        bend = sum(torch.autograd.grad(slope[:, i].sum(), place, create_graph=True)[0][:, i] for i in range(2))
    source = -2 * math.pi**2 * torch.sin(math.pi * x[:, 0]) * torch.sin(math.pi * x[:, 1])
    walls = torch.cat([x * x.new_tensor([0, 1]), x * x.new_tensor([1, 0])])
    walls = torch.cat([walls, 1 - walls])
    return (bend - source).square().mean() + 100 * net(walls).square().mean()  # type: ignore[no-any-return]


def after_one_step(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    """The error on a task's other points after a step on five of them (Finn et al., arXiv:1703.03400)."""
    points, values = x[:, :, 0], x[:, :, 1]
    return F.mse_loss(adapted(net, points[:, :5], values[:, :5])(points[:, 5:]), values[:, 5:])


RECIPES = [
    taught(
        "poisson_equation",
        lambda: dense([2, 32, 32, 1], nn.Tanh),
        adam(1e-2),
        poisson_equation,
        lambda net, x, y: F.mse_loss(net(x), y),
        data=data.circle_walls,
        schedule=cosine(400),
        steps=400,
    ),
    taught(
        "after_one_step",
        lambda: dense([1, 40, 40, 1], nn.Softplus),
        adam(5e-3),
        after_one_step,
        lambda net, x, y: after_one_step(net, x, y, 0),
        data=data.families_of_sines,
        batch_size=16,
        steps=350,
    ),
    alone("fixed_point", lambda: FixedPoint(64, 10), adam(5e-3), data=data.digits, steps=250),
    alone("integrated", lambda: Integrated(2), adam(5e-3), data=data.rotations, make=numbers, steps=300),
    alone("energy", Energy, adam(5e-3), data=data.pendulum, make=numbers, steps=300),
]
