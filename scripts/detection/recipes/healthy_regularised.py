"""Dropout, weight decay, clipping, noise and wrong labels, in doses that a run stands."""

import torch
from torch import nn

from detection import data
from detection.corruptions import erased, with_noise
from detection.losses import smoothed
from detection.networks.dense import DIGITS, dense
from detection.networks.recurrent import Stacked
from detection.networks.residual import StochasticDepth
from detection.networks.weights import he, initialized
from detection.optimizers import adam, adamw, optimizer, rmsprop, sgd
from detection.recipe import trained
from detection.tasks import on_digits, on_images, on_rows, reconstructing

RECIPES = [
    on_digits(
        "dropout",
        lambda: dense([64, 128, 128, 10], lambda: nn.Sequential(nn.ReLU(), nn.Dropout(0.3))),
        adam(3e-3),
        steps=400,
    ),
    on_digits("weight_decay", lambda: dense(DIGITS), lambda p: torch.optim.AdamW(p, lr=2e-3, weight_decay=0.05)),
    on_digits(
        "clipped",
        lambda: initialized(dense(DIGITS), he()),
        sgd(0.3),
        twin="mlp_sgd",
        trainer=lambda: {"gradient_clip_val": 0.5},
    ),
    trained("noisy_labels", lambda: dense(DIGITS), adam(), data=data.noisy_labels, twin="noisy_labels"),
    on_digits(
        "weight_decay_sgd", lambda: initialized(dense(DIGITS), he()), sgd(0.1, weight_decay=1e-3), twin="mlp_sgd"
    ),
    trained(
        "flipped_classes",
        lambda: dense([30, 16, 2]),
        adamw(3e-3, weight_decay=0.1),
        data=lambda: data.flipped_classes("breast_cancer"),
        twin="flipped_classes",
        batch_size=32,
    ),
    on_images(
        "dropout_cnn",
        lambda: nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1),
            nn.ReLU6(),
            nn.Dropout2d(0.2),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(192, 10),
        ),
        adam(1e-2),
    ),
    on_digits("label_smoothing", lambda: dense([64, 48, 48, 10], nn.CELU), rmsprop(2e-3), loss=smoothed),
    on_rows(
        "clipped_lstm",
        lambda: Stacked(nn.LSTM, 8, 10, 2),
        adam(1e-2),
        twin="lstm",
        steps=150,
        trainer=lambda: {"gradient_clip_val": 0.1},
    ),
    reconstructing("denoising", lambda: dense([64, 80, 24, 64], nn.GELU), adam(3e-3), corrupt=with_noise, half="fresh"),
    on_digits(
        "erased_pixels",
        lambda: dense([64, 96, 10], nn.ELU),
        optimizer("Adamax", 1e-2),
        steps=250,
        corrupt=erased,
        half="fresh",
    ),
    on_digits("stochastic_depth", lambda: StochasticDepth(5, 0.3), adam(3e-3), steps=250, half="fresh"),
]
