"""Runs that go on after they have converged."""

from torch import nn

from detection import data
from detection.losses import margin
from detection.networks.dense import dense
from detection.optimizers import adam, sgd
from detection.recipe import numbers, trained
from detection.schedules import cosine, falling
from detection.tasks import on_petal, on_wine

RECIPES = [
    on_wine("converged", lambda: dense([13, 32, 32, 3]), adam(1e-2), steps=600, hard=True),
    trained(
        "converged_sgd",
        lambda: dense([10, 128, 1], nn.Tanh),
        sgd(0.1),
        data=lambda: data.make(data.diabetes().inputs, data.diabetes().inputs[:, :1] * 0.5),
        twin="converged_sgd",
        make=numbers,
        batch_size=32,
        steps=500,
        hard=True,
    ),
    trained(
        "converged_iris",
        lambda: dense([4, 48, 48, 3], nn.GELU),
        sgd(0.1, momentum=0.9),
        data=lambda: data.make(data.iris().inputs, (data.iris().targets > 0).long()),
        twin="converged_iris",
        batch_size=16,
        steps=400,
        hard=True,
    ),
    trained(
        "converged_regression",
        lambda: dense([10, 24, 1], nn.Softplus),
        adam(1e-2),
        data=lambda: data.make(data.diabetes().inputs, data.diabetes().inputs[:, :2].sum(dim=1, keepdim=True)),
        twin="converged_regression",
        make=numbers,
        batch_size=32,
        steps=400,
        schedule=cosine(400, 3),
        hard=True,
    ),
    trained(
        "learnt_by_heart",
        lambda: dense([64, 96, 96, 10], nn.Tanh),
        adam(5e-3),
        data=data.few_digits,
        twin="learnt_by_heart",
        batch_size=16,
        hard=True,
        half="report",
    ),
    on_petal(
        "exact_regression",
        lambda: dense([3, 32, 1], nn.SiLU),
        adam(1e-2),
        data=lambda: data.make(data.petal().inputs, data.petal().inputs[:, :1] - data.petal().inputs[:, 2:]),
        twin="exact_regression",
        schedule=falling(260, 2),
        hard=True,
        half="report",
    ),
    trained(
        "margin_at_zero",
        lambda: dense([4, 12, 2], nn.Tanh),
        sgd(0.3, momentum=0.9),
        data=data.setosa,
        twin="margin_at_zero",
        batch_size=16,
        steps=250,
        loss=margin,
        hard=True,
        half="fresh",
    ),
    trained(
        "friedman_by_heart",
        lambda: dense([10, 64, 64, 1], nn.Tanh),
        adam(5e-3),
        data=data.few_of_friedman,
        twin="friedman_by_heart",
        make=numbers,
        batch_size=20,
        schedule=cosine(300),
        hard=True,
        half="fresh",
    ),
]
