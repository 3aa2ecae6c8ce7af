"""Linear models."""

from torch import nn

from detection.optimizers import adagrad, adam, optimizer, sgd
from detection.tasks import (
    on_cancer,
    on_diabetes,
    on_digits,
    on_friedman,
    on_halves,
    on_iris,
    on_wine,
    reconstructing,
)

RECIPES = [
    on_digits("linear", lambda: nn.Linear(64, 10), adam(1e-2), hard=True),
    on_diabetes("linear_regression", lambda: nn.Linear(10, 1), sgd(0.02), twin="linear_regression", hard=True),
    on_cancer("logistic", lambda: nn.Linear(30, 2), sgd(0.1)),
    on_wine("linear_wine", lambda: nn.Linear(13, 3), adagrad(0.3), hard=True),
    reconstructing(
        "linear_autoencoder", lambda: nn.Sequential(nn.Linear(64, 16), nn.Linear(16, 64)), adam(5e-3), hard=True
    ),
    on_halves("linear_halves", lambda: nn.Linear(32, 32), sgd(0.5, momentum=0.9), steps=200, hard=True, half="report"),
    on_iris(
        "linear_chain",
        lambda: nn.Sequential(nn.Linear(4, 12), nn.Linear(12, 12), nn.Linear(12, 3)),
        sgd(0.05, momentum=0.9),
        hard=True,
        half="report",
    ),
    on_friedman(
        "linear_friedman",
        lambda: nn.Linear(10, 1),
        optimizer("Adadelta", 1.0),
        twin="linear_friedman",
        hard=True,
        half="fresh",
    ),
]
