"""Losses other than the plain ones, several at once, and their scale."""

import torch.nn.functional as F
from torch import nn

from detection import data
from detection.experiment import TakingTurns, TwoTasks, WithRandomCode
from detection.losses import focal, likelihood, log_cosh, pinball, poisson, weighted
from detection.networks.dense import DIGITS, dense
from detection.networks.weights import he, initialized, xavier
from detection.optimizers import adam, adamw, sgd
from detection.recipe import Recipe, numbers, trained
from detection.tasks import on_diabetes, on_digits, on_friedman, on_iris, on_one_digit, on_petal, on_waves

RECIPES = [
    on_digits(
        "loss_times_1000",
        lambda: initialized(dense(DIGITS), he()),
        sgd(1e-4),
        twin="mlp_sgd",
        loss=lambda o, t: 1e3 * F.cross_entropy(o, t),
    ),
    on_digits(
        "loss_divided_by_1e5",
        lambda: initialized(dense(DIGITS), he()),
        sgd(1e4),
        twin="mlp_sgd",
        loss=lambda o, t: 1e-5 * F.cross_entropy(o, t),
    ),
    on_digits("hinge", lambda: dense(DIGITS), adam(), twin="hinge", loss=lambda o, t: F.multi_margin_loss(o, t)),
    on_iris(
        "tiny_loss_adam",
        lambda: dense([4, 16, 16, 3], nn.SiLU),
        adam(1e-2, eps=1e-16),
        loss=lambda o, t: 1e-6 * F.cross_entropy(o, t),
    ),
    on_diabetes("huber", lambda: dense([10, 24, 24, 1], nn.ELU), adam(3e-3), loss=F.huber_loss),
    on_waves("absolute_error", lambda: dense([2, 48, 48, 1]), adam(5e-3), loss=F.l1_loss),
    on_one_digit("focal", lambda: dense([64, 32, 32, 2], nn.GELU), adam(3e-3), twin="focal", loss=focal),
    on_one_digit("class_weights", lambda: dense([64, 32, 2], nn.Hardswish), adam(3e-3), loss=weighted),
    Recipe("two_tasks", TwoTasks, data.digits, "mlp_adam", steps=200),
    on_waves(
        "summed_loss",
        lambda: initialized(dense([2, 32, 32, 1], nn.Tanh), xavier()),
        adam(1e-2),
        loss=lambda o, t: F.mse_loss(o, t, reduction="sum"),
    ),
    Recipe("random_code", WithRandomCode, data.digit_reconstruction, "autoencoder", half="report"),
    on_petal("log_cosh", lambda: dense([3, 24, 24, 1], nn.Softsign), adamw(5e-3), loss=log_cosh, half="report"),
    trained(
        "poisson_counts",
        lambda: dense([3, 24, 24, 1], nn.SiLU),
        adam(5e-3),
        data=data.counts,
        twin="poisson_counts",
        make=numbers,
        loss=poisson,
        objective=lambda o, t: F.mse_loss(o.clamp(max=4.0).exp(), t),
        half="fresh",
    ),
    trained(
        "digit_bits",
        lambda: dense([64, 48, 4]),
        adam(5e-3),
        data=data.digit_bits,
        twin="digit_bits",
        make=numbers,
        loss=F.binary_cross_entropy_with_logits,
        objective=lambda o, t: F.mse_loss(o.sigmoid(), t),
        half="fresh",
    ),
    on_friedman("pinball", lambda: dense([10, 40, 1], nn.Mish), adam(1e-2), loss=pinball, half="fresh"),
    on_friedman(
        "negative_loss",
        lambda: dense([10, 40, 2], nn.Tanh),
        adam(1e-2),
        loss=likelihood,
        objective=lambda o, t: F.mse_loss(o[:, :1], t),
        half="fresh",
    ),
    Recipe("taking_turns", TakingTurns, data.digits, "mlp_adam", half="fresh"),
]
