"""A wrong loss, and regularisation that leaves nothing to learn."""

import torch.nn.functional as F
from torch import nn

from detection.losses import log_of_probabilities
from detection.networks.characters import small_gpt
from detection.networks.dense import DIGITS, dense
from detection.networks.weights import he, initialized
from detection.optimizers import adam, adamw, sgd
from detection.tasks import on_digits, on_text, on_waves

RECIPES = [
    on_digits(
        "flipped_loss",
        lambda: dense(DIGITS),
        adam(),
        fault="the sign of the loss",
        loss=lambda o, t: -F.cross_entropy(o, t),
    ),
    on_digits(
        "flipped_loss_sgd",
        lambda: initialized(dense(DIGITS), he()),
        sgd(),
        fault="the sign of the loss, SGD",
        twin="mlp_sgd",
        loss=lambda o, t: -F.cross_entropy(o, t),
    ),
    on_digits("l2", lambda: initialized(dense(DIGITS), he()), sgd(weight_decay=0.3), fault="L2 of 0.3", twin="mlp_sgd"),
    on_digits("l2_adam", lambda: dense(DIGITS), adam(weight_decay=0.1), fault="L2 of 0.1, Adam"),
    on_digits(
        "softmax_hidden",
        lambda: dense([64] * 4 + [10], lambda: nn.Softmax(dim=1)),
        sgd(),
        fault="softmax as hidden activation",
        twin="mlp_sgd",
    ),
    on_digits(
        "softmax_hidden_adam",
        lambda: dense([64] * 4 + [10], lambda: nn.Softmax(dim=1)),
        adam(),
        fault="softmax as hidden activation, Adam",
    ),
    on_digits(
        "softmax_twice",
        lambda: nn.Sequential(dense(DIGITS), nn.Softmax(dim=1)),
        sgd(0.01),
        fault="softmax before cross-entropy, SGD",
        twin="mlp_sgd",
    ),
    on_digits(
        "log_of_zero",
        lambda: initialized(dense(DIGITS), he(2.0)),
        sgd(),
        fault="cross-entropy written as log(softmax)",
        twin="mlp_sgd",
        loss=log_of_probabilities,
    ),
    on_digits(
        "dropout_99",
        lambda: dense([64, 64, 64, 10], lambda: nn.Sequential(nn.ReLU(), nn.Dropout(0.99))),
        adam(),
        fault="dropout of 0.99",
    ),
    on_digits(
        "doubled_norm",
        lambda: dense(DIGITS, lambda: nn.Sequential(nn.BatchNorm1d(64), nn.ReLU()), nn.BatchNorm1d),
        adam(),
        fault="batch norm twice",
    ),
    on_waves(
        "flipped_absolute_error",
        lambda: dense([2, 32, 1]),
        adam(1e-3),
        fault="the sign of the loss",
        loss=lambda o, t: -F.l1_loss(o, t),
    ),
    on_text("gpt_l2", small_gpt, sgd(0.5, weight_decay=0.3), fault="L2 of 0.3"),
    on_digits(
        "adamw_decay",
        lambda: dense(DIGITS),
        adamw(2e-3, weight_decay=300.0),
        fault="weight decay of 300, AdamW",
        steps=200,
    ),
    on_digits(
        "smoothed_away",
        lambda: dense([64, 48, 48, 10], nn.SiLU),
        adam(),
        fault="label smoothing of 1",
        steps=200,
        loss=lambda o, t: F.cross_entropy(o, t, label_smoothing=1.0),
    ),
    on_digits(
        "softmax_over_batch",
        lambda: nn.Sequential(dense([64, 48, 48, 10], nn.ELU), nn.Softmax(dim=0)),
        sgd(0.1),
        fault="softmax over the batch instead of the classes",
        steps=150,
        half="report",
    ),
]
