"""Runs that learn, many of them in ways that detectors mistake for sickness."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn

from detection import data
from detection.networks import (
    FrozenBackbone,
    FunctionalMLP,
    PlainCNN,
    Recurrent,
    ResidualStack,
    SharpAttention,
    SparseBag,
    TwoBranches,
    constant,
    dense,
    he,
    initialized,
    xavier,
)
from detection.recipe import Adversarial, Recipe, adam, classes, numbers, sgd
from lightning_gradtools.tasks.networks import CNN, GPT, ResidualMLP

DIGITS = [64, 64, 64, 10]


def gpt(**settings: Any) -> nn.Module:
    return GPT(data.VOCABULARY, context_length=32, depth=2, width=48, heads=4, **settings)


def autoencoder(activation: Any = nn.ReLU, scale: float = 1.0) -> nn.Module:
    return initialized(dense([64, 48, 12, 48, 64], activation), xavier(scale))


def warmup_cosine(warmup: int, steps: int, power: float = 1.0) -> Any:
    """Return a factor of the learning rate that is 0 at step 0 and at the end."""
    return lambda step: (
        step / warmup
        if step < warmup
        else max(0.0, 0.5 + 0.5 * math.cos(math.pi * min(1.0, (step - warmup) / (steps - warmup)))) ** power
    )


def sparse_relu() -> nn.Module:
    """A wide layer whose units fire on few samples each: biases well below zero."""
    net = dense([64, 256, 64, 10])
    initialized(net, he())
    with torch.no_grad():
        net[0].bias.fill_(-1.0)  # type: ignore[index]
    return net


def outlier(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
    return (x * 20, y) if step == 120 else (x, y)


def fp16() -> dict[str, Any]:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**22, growth_interval=60)
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]}


def linear_warmup(step: int) -> float:
    return min(1.0, step / 60)


def zero_output(net: nn.Module) -> nn.Module:
    initialized(net[-1], constant(0.0))  # type: ignore[index]
    return net


HEALTHY = [
    # What the sick ones are compared with
    Recipe("mlp_adam", classes(lambda: dense(DIGITS), adam()), data.digits, "mlp_adam"),
    Recipe("mlp_sgd", classes(lambda: initialized(dense(DIGITS), he()), sgd()), data.digits, "mlp_sgd"),
    Recipe("mlp_tanh", classes(lambda: dense(DIGITS, nn.Tanh), adam()), data.digits, "mlp_tanh"),
    Recipe("cnn_plain", classes(lambda: PlainCNN([8, 8, 16]), adam(5e-3)), data.digit_images, "cnn_plain"),
    Recipe("rnn", classes(lambda: Recurrent(nn.RNN, 8, gain=1.0), adam()), data.digit_rows, "rnn"),
    Recipe("lstm", classes(lambda: Recurrent(nn.LSTM, 8), adam(5e-3)), data.digit_rows, "lstm"),
    Recipe("gpt", classes(gpt, adam(3e-3)), data.text, "gpt", batch_size=16, steps=200),
    Recipe("attention", classes(SharpAttention, adam(5e-3)), data.digit_rows, "attention"),
    Recipe(
        "autoencoder",
        numbers(autoencoder, adam(3e-3)),
        data.digit_reconstruction,
        "autoencoder",
        steps=400,
    ),
    Recipe("gan", Adversarial, data.ring, "gan", steps=600, hard=True),
    Recipe(
        "diabetes",
        numbers(lambda: dense([10, 32, 1]), sgd(0.05)),
        lambda: data.table("diabetes"),
        "diabetes",
        batch_size=32,
    ),
    Recipe(
        "breast_cancer",
        classes(lambda: dense([30, 16, 2], nn.Tanh), sgd()),
        lambda: data.table("breast_cancer"),
        "breast_cancer",
        batch_size=32,
    ),
    Recipe("wine", classes(lambda: dense([13, 16, 3]), adam(5e-3)), lambda: data.table("wine"), "wine", batch_size=16),
    # Of kinds that are known to set detectors off
    Recipe("sparse_relu", classes(sparse_relu, adam()), data.digits, "mlp_adam", hard=True),
    Recipe(
        "batch_norm",
        classes(lambda: dense(DIGITS, between=nn.BatchNorm1d), adam()),
        data.digits,
        "mlp_adam",
        hard=True,
    ),
    Recipe(
        "batch_norm_cnn",
        classes(lambda: CNN(channels=(8, 8, 16)), adam(5e-3)),
        data.digit_images,
        "cnn_plain",
        hard=True,
    ),
    Recipe(
        "layer_norm_gelu",
        classes(lambda: dense(DIGITS, nn.GELU, nn.LayerNorm), adam()),
        data.digits,
        "mlp_adam",
        hard=True,
    ),
    Recipe("frozen_backbone", classes(FrozenBackbone, adam(5e-3)), data.digits, "mlp_adam", hard=True),
    Recipe("zero_residual", classes(lambda: ResidualStack(8, zero=True), adam()), data.digits, "mlp_adam", hard=True),
    Recipe(
        "sparse_embedding",
        classes(lambda: SparseBag(data.VOCABULARY, 16, 3), sgd(3.0)),
        data.bags,
        "sparse_embedding",
        hard=True,
        steps=400,
    ),
    Recipe(
        "cosine_tail",
        classes(lambda: dense(DIGITS), adam(3e-3), schedule=warmup_cosine(20, 400, power=4)),
        data.digits,
        "mlp_adam",
        steps=400,
        hard=True,
    ),
    Recipe(
        "warmup_from_zero",
        classes(gpt, adam(3e-3), schedule=linear_warmup),
        data.text,
        "gpt",
        batch_size=16,
        steps=240,
        hard=True,
    ),
    Recipe(
        "converged",
        classes(lambda: dense([13, 32, 32, 3]), adam(1e-2)),
        lambda: data.table("wine"),
        "wine",
        batch_size=16,
        steps=600,
        hard=True,
    ),
    Recipe(
        "converged_sgd",
        numbers(lambda: dense([10, 128, 1], nn.Tanh), sgd(0.1)),
        lambda: data.make(data.table("diabetes").inputs, data.table("diabetes").inputs[:, :1] * 0.5),
        "converged_sgd",
        batch_size=32,
        steps=500,
        hard=True,
    ),
    Recipe(
        "bf16",
        classes(lambda: dense(DIGITS), adam()),
        data.digits,
        "mlp_adam",
        trainer=lambda: {"precision": "bf16-mixed"},
        hard=True,
    ),
    Recipe("fp16_loss_scale", classes(lambda: dense(DIGITS), adam()), data.digits, "mlp_adam", trainer=fp16, hard=True),
    Recipe(
        "accumulation",
        classes(lambda: dense(DIGITS), adam()),
        data.digits,
        "mlp_adam",
        batch_size=16,
        trainer=lambda: {"accumulate_grad_batches": 4},
        hard=True,
    ),
    Recipe(
        "batch_of_two",
        classes(lambda: dense(DIGITS), adam(1e-3)),
        data.digits,
        "mlp_adam",
        batch_size=2,
        steps=900,
        hard=True,
    ),
    Recipe(
        "outlier_batch", classes(lambda: dense(DIGITS), adam(), corrupt=outlier), data.digits, "mlp_adam", hard=True
    ),
    Recipe("linear", classes(lambda: nn.Linear(64, 10), adam(1e-2)), data.digits, "mlp_adam", hard=True),
    Recipe(
        "linear_regression",
        numbers(lambda: nn.Linear(10, 1), sgd(0.02)),
        lambda: data.table("diabetes"),
        "linear_regression",
        batch_size=32,
        hard=True,
    ),
    Recipe(
        "deep_residual",
        classes(lambda: ResidualMLP(64, 10, width=32, depth=30), adam()),
        data.digits,
        "mlp_adam",
        hard=True,
    ),
    # Further ones
    Recipe(
        "wine_sgd", classes(lambda: dense([13, 16, 3]), sgd(0.1)), lambda: data.table("wine"), "wine", batch_size=16
    ),
    Recipe(
        "loss_times_1000",
        classes(lambda: initialized(dense(DIGITS), he()), sgd(1e-4), loss=lambda o, t: 1e3 * F.cross_entropy(o, t)),
        data.digits,
        "mlp_sgd",
    ),
    Recipe(
        "loss_divided_by_1e5",
        classes(lambda: initialized(dense(DIGITS), he()), sgd(1e4), loss=lambda o, t: 1e-5 * F.cross_entropy(o, t)),
        data.digits,
        "mlp_sgd",
    ),
    Recipe(
        "dropout",
        classes(lambda: dense([64, 128, 128, 10], lambda: nn.Sequential(nn.ReLU(), nn.Dropout(0.3))), adam(3e-3)),
        data.digits,
        "mlp_adam",
        steps=400,
    ),
    Recipe(
        "weight_decay",
        classes(lambda: dense(DIGITS), lambda p: torch.optim.AdamW(p, lr=2e-3, weight_decay=0.05)),
        data.digits,
        "mlp_adam",
    ),
    Recipe("selu", classes(lambda: dense(DIGITS, nn.SELU), adam()), data.digits, "mlp_adam"),
    Recipe("leaky_relu", classes(lambda: dense(DIGITS, nn.LeakyReLU), sgd(0.1, momentum=0.9)), data.digits, "mlp_adam"),
    Recipe(
        "clipped",
        classes(lambda: initialized(dense(DIGITS), he()), sgd(0.3)),
        data.digits,
        "mlp_sgd",
        trainer=lambda: {"gradient_clip_val": 0.5},
    ),
    Recipe(
        "bias_before_batch_norm",
        classes(lambda: dense([64, 48, 48, 48, 10], between=nn.BatchNorm1d), sgd(0.1)),
        data.digits,
        "mlp_adam",
    ),
    Recipe("sigmoid_shallow", classes(lambda: dense([64, 64, 10], nn.Sigmoid), adam(1e-2)), data.digits, "mlp_adam"),
    Recipe("momentum", classes(lambda: dense(DIGITS), sgd(0.05, momentum=0.9)), data.digits, "mlp_adam"),
    Recipe("noisy_labels", classes(lambda: dense(DIGITS), adam()), data.noisy_labels, "noisy_labels"),
    Recipe("functional_relu", classes(lambda: FunctionalMLP(DIGITS), adam()), data.digits, "mlp_adam"),
    Recipe("two_branches", classes(TwoBranches, adam()), data.digits, "mlp_adam"),
    Recipe("gru", classes(lambda: Recurrent(nn.GRU, 8), adam(5e-3)), data.digit_rows, "lstm"),
    Recipe("gpt_untied", classes(lambda: gpt(tied=False), adam(3e-3)), data.text, "gpt", batch_size=16, steps=200),
    Recipe("gpt_relu", classes(lambda: gpt(activation="relu"), adam(3e-3)), data.text, "gpt", batch_size=16, steps=200),
    Recipe(
        "cnn_momentum",
        classes(lambda: initialized(PlainCNN([8, 8, 16]), he()), sgd(0.05, momentum=0.9)),
        data.digit_images,
        "cnn_plain",
    ),
    Recipe(
        "autoencoder_gelu",
        numbers(lambda: autoencoder(nn.GELU), adam(3e-3)),
        data.digit_reconstruction,
        "autoencoder",
        steps=400,
    ),
    Recipe(
        "autoencoder_wide",
        numbers(lambda: dense([64, 96, 32, 96, 64]), adam(2e-3)),
        data.digit_reconstruction,
        "autoencoder",
        steps=400,
    ),
    Recipe(
        "diabetes_adam",
        numbers(lambda: dense([10, 32, 32, 1]), adam(2e-3)),
        lambda: data.table("diabetes"),
        "diabetes",
        batch_size=32,
    ),
    Recipe(
        "breast_cancer_adam",
        classes(lambda: dense([30, 32, 32, 2]), adam(2e-3)),
        lambda: data.table("breast_cancer"),
        "breast_cancer",
        batch_size=32,
    ),
    Recipe(
        "logistic",
        classes(lambda: nn.Linear(30, 2), sgd(0.1)),
        lambda: data.table("breast_cancer"),
        "breast_cancer",
        batch_size=32,
    ),
    Recipe(
        "mlp_deep_he",
        classes(lambda: initialized(dense([64] + [64] * 6 + [10]), he()), adam(1e-3)),
        data.digits,
        "mlp_adam",
    ),
    Recipe(
        "mlp_tanh_deep",
        classes(lambda: initialized(dense([64] + [64] * 8 + [10], nn.Tanh), xavier()), adam(1e-3)),
        data.digits,
        "mlp_tanh",
    ),
    Recipe(
        "hinge",
        classes(lambda: dense(DIGITS), adam(), loss=lambda o, t: F.multi_margin_loss(o, t)),
        data.digits,
        "hinge",
    ),
    Recipe("zero_output_layer", classes(lambda: zero_output(dense(DIGITS)), adam()), data.digits, "mlp_adam"),
    Recipe(
        "weight_decay_sgd",
        classes(lambda: initialized(dense(DIGITS), he()), sgd(0.1, weight_decay=1e-3)),
        data.digits,
        "mlp_sgd",
    ),
    Recipe(
        "step_schedule",
        classes(lambda: dense(DIGITS), adam(5e-3), schedule=lambda step: 0.1 ** (step // 120)),
        data.digits,
        "mlp_adam",
    ),
    Recipe(
        "cyclic",
        classes(lambda: dense(DIGITS), adam(4e-3), schedule=lambda s: 0.55 - 0.45 * math.cos(s / 12)),
        data.digits,
        "mlp_adam",
    ),
]
