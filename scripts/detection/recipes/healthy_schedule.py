"""Learning rates that rise from zero, fall to zero, jump or circle."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from detection.networks.characters import gpt
from detection.networks.convolutional import ConvNet
from detection.networks.dense import DIGITS, dense
from detection.networks.recurrent import Stacked
from detection.networks.weights import he, initialized, zero_output
from detection.optimizers import adam, adamw, optimizer, rmsprop, sgd
from detection.schedules import cosine, falling, late_warmup, linear_warmup, restarts
from detection.tasks import (
    on_digits,
    on_images,
    on_iris,
    on_long_text,
    on_recall,
    on_sines,
    on_spirals,
    on_wine,
    reconstructing,
)

RECIPES = [
    on_digits(
        "cosine_tail", lambda: dense(DIGITS), adam(3e-3), steps=400, schedule=cosine(400, 4, warmup=20), hard=True
    ),
    on_long_text("warmup_from_zero", gpt, adam(3e-3), steps=240, schedule=linear_warmup, hard=True),
    on_digits("step_schedule", lambda: dense(DIGITS), adam(5e-3), schedule=lambda step: 0.1 ** (step // 120)),
    on_digits("cyclic", lambda: dense(DIGITS), adam(4e-3), schedule=lambda s: 0.55 - 0.45 * math.cos(s / 12)),
    on_recall(
        "cosine_tail_gru", lambda: Stacked(nn.GRU, 2, 4, 1), adamw(2e-2), steps=240, schedule=cosine(240, 3), hard=True
    ),
    on_images(
        "warmup_cnn",
        lambda: initialized(ConvNet([8, 16]), he()),
        sgd(0.1, momentum=0.9),
        steps=200,
        schedule=lambda step: min(1.0, step / 80) ** 2,
        hard=True,
    ),
    on_digits(
        "warm_restarts",
        lambda: dense([64, 48, 48, 10], nn.Mish),
        sgd(0.3),
        twin="mlp_sgd",
        steps=250,
        schedule=restarts(50),
    ),
    reconstructing(
        "falling_to_zero",
        lambda: dense([64, 64, 16, 64], nn.SiLU),
        adamw(1e-2),
        schedule=falling(280, 3),
        hard=True,
        half="report",
    ),
    on_iris(
        "zero_rate_at_the_end",
        lambda: dense([4, 24, 3]),
        rmsprop(2e-2),
        schedule=falling(200, 2),
        hard=True,
        half="report",
    ),
    on_wine(
        "late_warmup", lambda: dense([13, 24, 3], nn.SiLU), adam(1e-2), schedule=late_warmup, hard=True, half="report"
    ),
    on_digits(
        "nadam_lr_drop",
        lambda: zero_output(dense([64, 96, 10], nn.GELU)),
        lambda parameters: torch.optim.NAdam(parameters, lr=5e-3),
        steps=200,
        schedule=lambda step: 0.01 if step >= 140 else 1.0,
        half="report",
    ),
    on_images(
        "cosine_tail_conv_net",
        lambda: ConvNet([10, 10], F.leaky_relu),
        optimizer("NAdam", 8e-3),
        steps=200,
        schedule=cosine(200, 5),
        hard=True,
        half="fresh",
    ),
    on_spirals(
        "one_cycle",
        lambda: dense([2, 64, 64, 2]),
        adamw(2e-2),
        schedule=cosine(290, 2, warmup=80),
        hard=True,
        half="fresh",
    ),
    on_sines(
        "warmup_gru",
        lambda: Stacked(nn.GRU, 1, 4, 1),
        adam(1e-2),
        steps=250,
        schedule=lambda step: min(1.0, step / 50) ** 3,
        hard=True,
        half="fresh",
    ),
]
