"""Targets that are offset, small or unbalanced, and small features."""

from torch import nn

from detection import data
from detection.networks.dense import Domains, dense
from detection.networks.weights import zero_output
from detection.optimizers import adam, sgd
from detection.recipe import numbers, trained
from detection.schedules import cosine
from detection.tasks import on_iris, on_one_digit

RECIPES = [
    trained(
        "offset_targets",
        lambda: dense([10, 32, 1]),
        adam(2e-2),
        data=lambda: data.with_targets(data.diabetes(), 1.0, 8.0),
        twin="diabetes",
        make=numbers,
        batch_size=32,
    ),
    trained(
        "small_targets",
        lambda: zero_output(dense([10, 48, 1], nn.Tanh)),
        adam(2e-3),
        data=lambda: data.with_targets(data.diabetes(), 0.03, 0.0),
        twin="diabetes",
        make=numbers,
        batch_size=32,
        schedule=cosine(300, 3),
    ),
    on_one_digit("one_digit", lambda: dense([64, 32, 2]), sgd(0.2)),
    on_iris(
        "small_features",
        lambda: dense([4, 16, 16, 3], nn.Tanh),
        adam(2e-2),
        data=lambda: data.scaled(data.iris(), 0.05),
        half="report",
    ),
    trained(
        "rare_class",
        lambda: dense([64, 24, 2], nn.GELU),
        adam(3e-3),
        data=data.rare_class,
        twin="rare_class",
        half="fresh",
    ),
    trained(
        "rare_domain",
        Domains,
        adam(5e-3),
        data=data.domains,
        twin="rare_domain",
        make=numbers,
        batch_size=24,
        half="fresh",
    ),
]
