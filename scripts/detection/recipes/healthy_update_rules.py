"""Rates that are tiny or huge and work, rules that see only signs or norms, gradients cut to almost nothing."""

from functools import partial

import torch.nn.functional as F
from torch import nn

from detection import data
from detection.data import Data
from detection.methods import alone
from detection.networks.characters import small_gpt
from detection.networks.convolutional import PlainCNN
from detection.networks.dense import DIGITS, dense
from detection.networks.weights import he, initialized, zero_output
from detection.optimizers import LARS, Lion, Noisy, SignDescent, adam, adamw, optimizer, sgd
from detection.recipe import numbers


def unit_rows() -> Data:
    """The tumours' 30 numbers, divided by their norm."""
    given = data.cancer()
    return data.make(F.normalize(given.inputs, dim=1), given.targets)


def large_features() -> Data:
    """Friedman's numbers in units a hundredth as large."""
    return data.scaled(data.friedman(), 100.0)


def without_biases() -> nn.Module:
    """Matrices alone, as Muon wants them."""
    return nn.Sequential(
        *[nn.Linear(64, 64, bias=False), nn.SiLU(), nn.Linear(64, 64, bias=False), nn.SiLU()],
        nn.Linear(64, 10, bias=False),
    )


RECIPES = [
    alone("rate_of_5", lambda: nn.Linear(30, 2), sgd(5.0), data=unit_rows, batch_size=32),
    alone(
        "rate_of_5e-7",
        lambda: nn.Linear(10, 1),
        sgd(5e-7),
        data=large_features,
        make=numbers,
        loss=partial(F.mse_loss, reduction="sum"),
    ),
    alone(
        "rate_of_2e-9",
        lambda: zero_output(dense([64, 128, 10])),
        sgd(2e-9),
        data=data.digits,
        loss=lambda o, t: 1e6 * F.cross_entropy(o, t, reduction="sum"),
        twin="mlp_sgd",
    ),
    alone(
        "adadelta", lambda: dense([13, 24, 24, 3], nn.SiLU), optimizer("Adadelta", 1.0), data=data.wine, batch_size=16
    ),
    alone("adafactor", lambda: dense(DIGITS, nn.GELU), optimizer("Adafactor", 1e-2), data=data.digits),
    alone("muon", without_biases, optimizer("Muon", 0.02, weight_decay=0.0), data=data.digits, steps=200),
    alone("lion", lambda: dense(DIGITS, nn.SiLU), partial(Lion, lr=5e-4), data=data.digits),
    alone("lars", lambda: initialized(dense(DIGITS), he()), partial(LARS, lr=2.0), data=data.digits),
    alone("sign_descent", small_gpt, partial(SignDescent, lr=2e-3), data=data.short_text, batch_size=24, steps=200),
    alone("noisy_gradients", lambda: dense([64, 48, 10], nn.Tanh), partial(Noisy, lr=0.5), data=data.digits),
    alone(
        "resilient",
        lambda: dense([4, 16, 16, 3], nn.Tanh),
        optimizer("Rprop", 1e-2),
        data=data.iris,
        batch_size=150,
        steps=150,
    ),
    alone(
        "averaged_sgd", lambda: dense([10, 32, 1], nn.Tanh), optimizer("ASGD", 0.1), data=data.friedman, make=numbers
    ),
    alone(
        "second_order",
        lambda: dense([2, 24, 24, 1], nn.Tanh),
        optimizer("LBFGS", 1.0, max_iter=6, line_search_fn="strong_wolfe"),
        data=data.waves,
        make=numbers,
        batch_size=512,
        steps=60,
    ),
    alone(
        "clipped_to_1e-3",
        lambda: dense(DIGITS, nn.ELU),
        sgd(60.0),
        data=data.digits,
        trainer=lambda: {"gradient_clip_val": 1e-3},
        schedule=lambda step: 1 - step / 310,
    ),
    alone(
        "clipped_adam",
        lambda: PlainCNN([8, 12], nn.GELU),
        adam(5e-3, eps=1e-10),
        data=data.digit_images,
        batch_size=32,
        trainer=lambda: {"gradient_clip_val": 1e-4},
        steps=250,
    ),
    alone(
        "clipped_by_value",
        lambda: dense([10, 32, 32, 1], nn.SiLU),
        sgd(1.0, momentum=0.9),
        data=data.friedman,
        make=numbers,
        trainer=lambda: {"gradient_clip_val": 1e-3, "gradient_clip_algorithm": "value"},
    ),
    alone("momentum_of_099", lambda: dense(DIGITS, nn.Tanh), sgd(5e-3, momentum=0.99), data=data.digits),
    alone("rate_of_0.3_on_votes", lambda: nn.Embedding(64, 10), adam(0.3), data=data.one_hot_classes, batch_size=32),
    alone(
        "decay_of_half",
        lambda: dense([64, 96, 10], nn.SiLU),
        adamw(3e-3, weight_decay=0.5),
        data=data.digits,
    ),
]
