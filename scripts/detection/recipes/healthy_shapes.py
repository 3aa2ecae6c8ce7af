"""Rows of different lengths, graphs, and layers that are uncommon elsewhere here."""

import torch
from torch import nn

from detection import data
from detection.methods import alone
from detection.networks.convolutional import ConvNet
from detection.networks.dense import dense
from detection.networks.layers import Apply
from detection.networks.residual import Gated
from detection.networks.shapes import (
    Fixup,
    Gates,
    GraphAttention,
    Messages,
    Packed,
    Shared,
    Temporal,
    Winners,
    WithClassToken,
    bounded_weights,
    normed_weights,
)
from detection.networks.weights import initialized
from detection.optimizers import adam, adamw, sgd
from detection.recipe import numbers

RECIPES = [
    alone("packed_gru", lambda: Packed(nn.GRU, 2), adam(1e-2), data=data.ragged, batch_size=32, steps=250),
    alone("packed_lstm", lambda: Packed(nn.LSTM, 2), adam(2e-2), data=data.ragged, batch_size=32, steps=250),
    alone("temporal", lambda: Temporal(1, 4), adam(5e-3), data=data.sines, batch_size=32, make=numbers, steps=250),
    alone("messages", Messages, adam(5e-3), data=data.graphs, batch_size=32, make=numbers, steps=250),
    alone("graph_attention", GraphAttention, adam(5e-3), data=data.graphs, batch_size=32, make=numbers, steps=300),
    alone("class_token", WithClassToken, adamw(5e-3), data=data.digit_images, batch_size=32, steps=200),
    alone("fixup_24", lambda: Fixup(13, 3, 24), adam(3e-3), data=data.wine, batch_size=16, steps=200),
    alone("shared_block", Shared, adam(5e-3), data=data.digit_rows, batch_size=32, steps=150),
    alone("gated_silu", lambda: Gated(10, 1, 3), adamw(5e-3), data=data.friedman, make=numbers),
    alone("hard_gates", lambda: Gates(64, 10), adam(5e-3), data=data.digits),
    alone("winners", Winners, adam(5e-3), data=data.digit_images, batch_size=32, steps=200),
    alone("normed_weights", normed_weights, sgd(0.1, momentum=0.9), data=data.digits),
    alone("bounded_weights", bounded_weights, adam(1e-2), data=data.wine, batch_size=16),
    alone("trained_slopes", lambda: dense([64, 64, 64, 10], nn.PReLU), adam(5e-3), data=data.digits),
    alone("hard_swish", lambda: ConvNet([8, 12], nn.Hardswish()), adam(5e-3), data=data.digit_images, batch_size=32),
    alone(
        "nine_in_ten_dropped",
        lambda: nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Dropout(0.9), nn.Linear(512, 10)),
        adam(3e-3),
        data=data.digits,
    ),
    alone(
        "batch_norm_of_four",
        lambda: dense([13, 32, 32, 3], nn.ReLU, nn.BatchNorm1d),
        sgd(0.02, momentum=0.9),
        data=data.wine,
        batch_size=4,
        steps=400,
    ),
    alone(
        "positive_outputs",
        lambda: nn.Sequential(dense([10, 48, 1], nn.Tanh), nn.Softplus()),
        adam(1e-2),
        data=lambda: data.with_targets(data.friedman(), 0.3, 1.0),
        make=numbers,
    ),
    alone(
        "thresholded",
        lambda: nn.Sequential(nn.Linear(64, 192), nn.Softshrink(0.5), nn.Linear(192, 10)),
        adam(5e-3),
        data=data.digits,
    ),
    alone(
        "squared_relu",
        lambda: nn.Sequential(
            nn.Linear(64, 96),
            Apply(lambda h: h.clamp(min=0).square()),
            nn.LayerNorm(96),
            nn.Linear(96, 10),
        ),
        adamw(5e-3),
        data=data.digits,
    ),
    alone(
        "group_norm_batch_of_two",
        lambda: nn.Sequential(
            *[nn.Conv2d(1, 12, 3, padding=1), nn.GroupNorm(3, 12), nn.ReLU(), nn.MaxPool2d(2)],
            *[nn.Conv2d(12, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)],
        ),
        adam(1e-3),
        data=data.digit_images,
        batch_size=2,
        steps=400,
    ),
    alone(
        "fourier_features",
        lambda: nn.Sequential(
            initialized(nn.Linear(2, 64), nn.init.normal_, None).requires_grad_(False),
            Apply(torch.cos),
            nn.Linear(64, 1),
        ),
        sgd(0.02, momentum=0.9),
        data=data.waves,
        make=numbers,
    ),
]
