"""Deep networks that train."""

from torch import nn

from detection.networks.convolutional import ResidualConvNet
from detection.networks.dense import dense
from detection.networks.residual import Concatenating, Highway, Layered
from detection.networks.weights import he, initialized, xavier
from detection.optimizers import adam, rmsprop, sgd
from detection.tasks import on_cancer, on_digits, on_friedman, on_images, on_spirals, on_wine
from lightning_gradtools.tasks.networks import ResidualMLP

RECIPES = [
    on_digits("deep_residual", lambda: ResidualMLP(64, 10, width=32, depth=30), adam(), hard=True),
    on_digits("mlp_deep_he", lambda: initialized(dense([64] + [64] * 6 + [10]), he()), adam(1e-3)),
    on_digits(
        "mlp_tanh_deep",
        lambda: initialized(dense([64] + [64] * 8 + [10], nn.Tanh), xavier()),
        adam(1e-3),
        twin="mlp_tanh",
    ),
    on_images("residual_conv_net", lambda: ResidualConvNet(5), sgd(0.05, momentum=0.9), steps=150, hard=True),
    on_cancer(
        "deep_residual_cancer",
        lambda: ResidualMLP(30, 2, width=16, depth=16, activation="silu"),
        rmsprop(1e-3),
        steps=120,
        hard=True,
    ),
    on_wine("highway", lambda: Highway(13, 3, 6), adam(1e-2)),
    on_wine(
        "deep_residual_wine",
        lambda: ResidualMLP(13, 3, width=16, depth=20, activation="gelu"),
        adam(2e-3),
        steps=150,
        hard=True,
        half="report",
    ),
    on_cancer("concatenating", lambda: Concatenating(30, 2, 10), sgd(0.05, momentum=0.9), half="report"),
    on_friedman(
        "deep_residual_friedman",
        lambda: ResidualMLP(10, 1, width=16, depth=24, activation="gelu"),
        adam(2e-3),
        steps=150,
        hard=True,
        half="fresh",
    ),
    on_spirals("deep_residual_spirals", lambda: Layered(2, 2, 20), adam(3e-3), hard=True, half="fresh"),
]
