"""Runs with a fault that was put there. Whether it harmed the run is measured, not assumed."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection import data
from detection.healthy import DIGITS, autoencoder, gpt
from detection.networks import (
    Exponential,
    Forgotten,
    FunctionalMLP,
    NormOfZero,
    PlainCNN,
    Recurrent,
    ResidualStack,
    SharpAttention,
    TwoBranches,
    constant,
    dense,
    he,
    initialized,
    xavier,
)
from detection.recipe import Adversarial, Recipe, adam, classes, numbers, sgd


def deep(depth: int, activation: Any, width: int = 48) -> nn.Module:
    return dense([64] + [width] * depth + [10], activation)


def killed(net: nn.Module, bias: float, *paths: str) -> nn.Module:
    """Return the network with the biases of the layers at ``paths`` set."""
    with torch.no_grad():
        for path in paths:
            net.get_submodule(path).bias.fill_(bias)  # type: ignore[operator]
    return net


def mixed_labels(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
    return x, y[torch.randperm(len(y))]


def huge_batch(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """A burst of huge inputs at one step, which throws biases far below zero."""
    return (x * 1e3, y) if step == 100 else (x, y)


def log_of_probabilities(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy written by hand: log(0) once a probability underflows."""
    return -(10 * output).softmax(dim=-1).log().gather(1, target[:, None]).mean()


def closed_gates() -> nn.Module:
    net = Recurrent(nn.LSTM, 8)
    with torch.no_grad():
        for name, bias in net.cell.named_parameters():
            if name.startswith("bias"):
                bias.fill_(-12.0)
    return net


def digits(name: str, fault: str, net: Any, optimizer: Any = None, twin: str = "mlp_adam", **more: Any) -> Recipe:
    keys = ("loss", "schedule", "corrupt")
    settings = {key: more.pop(key) for key in keys if key in more}
    return Recipe(
        name, classes(net, optimizer or adam(), **settings), more.pop("data", data.digits), twin, fault, **more
    )


SICK = [
    # Deep stacks
    digits("sigmoid_10", "10 sigmoid layers", lambda: deep(10, nn.Sigmoid), sgd(), "mlp_sgd"),
    digits("sigmoid_8_adam", "8 sigmoid layers, Adam", lambda: deep(8, nn.Sigmoid), adam(1e-3)),
    digits("sigmoid_20_adam", "20 sigmoid layers, Adam", lambda: deep(20, nn.Sigmoid), adam(1e-3)),
    digits("sigmoid_6_wide", "6 sigmoid layers of 128 units", lambda: deep(6, nn.Sigmoid, 128), sgd(), "mlp_sgd"),
    digits(
        "tanh_20_half",
        "20 tanh layers with half of Glorot's weights",
        lambda: initialized(deep(20, nn.Tanh), xavier(0.5)),
        sgd(),
        "mlp_sgd",
    ),
    digits(
        "tanh_30_default", "30 tanh layers with torch's default weights", lambda: deep(30, nn.Tanh), sgd(), "mlp_sgd"
    ),
    digits(
        "relu_20_default", "20 ReLU layers with torch's default weights", lambda: deep(20, nn.ReLU), sgd(), "mlp_sgd"
    ),
    digits("relu_34_default", "34 ReLU layers with torch's default weights, Adam", lambda: deep(34, nn.ReLU)),
    digits(
        "relu_12_third",
        "12 ReLU layers with a third of He's weights",
        lambda: initialized(deep(12, nn.ReLU), he(0.33)),
        sgd(),
        "mlp_sgd",
    ),
    digits(
        "softplus_16_small",
        "16 softplus layers with a fifth of Glorot's weights",
        lambda: initialized(deep(16, nn.Softplus), xavier(0.2)),
        sgd(),
        "mlp_sgd",
    ),
    digits(
        "exponential_6", "6 exponential layers", lambda: initialized(deep(6, Exponential), xavier()), sgd(), "mlp_sgd"
    ),
    Recipe(
        "cnn_sigmoid",
        classes(lambda: PlainCNN([8] * 7, nn.Sigmoid), adam()),
        data.digit_images,
        "cnn_plain",
        "7 sigmoid convolutions",
    ),
    Recipe(
        "cnn_deep_default",
        classes(lambda: PlainCNN([8] * 14), sgd(0.1)),
        data.digit_images,
        "cnn_plain",
        "14 convolutions with torch's default weights",
    ),
    # Initial weights
    digits(
        "constant_init",
        "every weight 0.05",
        lambda: initialized(dense([64, 64, 64, 10]), constant(0.05)),
        sgd(),
        "mlp_sgd",
    ),
    digits(
        "ones_init", "every weight 1", lambda: initialized(dense([64, 64, 64, 10]), constant(1.0)), sgd(), "mlp_sgd"
    ),
    digits("zero_init", "every weight 0", lambda: initialized(dense(DIGITS), constant(0.0)), sgd(), "mlp_sgd"),
    digits(
        "tiny_init", "weights a hundredth of He's", lambda: initialized(deep(4, nn.ReLU), he(0.01)), sgd(), "mlp_sgd"
    ),
    digits(
        "huge_init", "weights 5 times He's, 8 layers", lambda: initialized(deep(8, nn.ReLU), he(5.0)), sgd(), "mlp_sgd"
    ),
    digits("huge_init_adam", "weights 5 times He's, 10 layers, Adam", lambda: initialized(deep(10, nn.ReLU), he(5.0))),
    digits(
        "tanh_huge_init",
        "tanh with 20 times Glorot's weights",
        lambda: initialized(dense([64] * 5 + [10], nn.Tanh), xavier(20.0)),
        sgd(0.01),
        "mlp_tanh",
    ),
    digits(
        "sigmoid_huge_init",
        "sigmoid with 30 times Glorot's weights",
        lambda: initialized(dense([64] * 4 + [10], nn.Sigmoid), xavier(30.0)),
        sgd(0.01),
        "mlp_sgd",
    ),
    Recipe(
        "gpt_huge_init",
        classes(lambda: gpt(init_std=1.0), adam(3e-3)),
        data.text,
        "gpt",
        "embeddings and weights with deviation 1",
        batch_size=16,
        steps=200,
    ),
    Recipe(
        "autoencoder_huge_init",
        numbers(lambda: autoencoder(nn.Tanh, 15.0), sgd(0.05)),
        data.digit_reconstruction,
        "autoencoder",
        "tanh autoencoder with 15 times Glorot's weights",
        steps=300,
    ),
    digits(
        "residual_gain",
        "24 residual blocks without norm, each of gain 2",
        lambda: ResidualStack(24, gain=2.0),
        sgd(0.01),
        "mlp_sgd",
    ),
    # Inputs and targets
    digits(
        "tanh_inputs_100",
        "inputs × 100 into tanh",
        lambda: dense([64, 64, 64, 10], nn.Tanh),
        sgd(0.01),
        "mlp_tanh",
        data=lambda: data.scaled(data.digits(), 100),
    ),
    digits(
        "relu_inputs_100",
        "inputs × 100",
        lambda: initialized(dense(DIGITS), he()),
        sgd(),
        "mlp_sgd",
        data=lambda: data.scaled(data.digits(), 100),
    ),
    Recipe(
        "raw_targets",
        numbers(lambda: dense([10, 32, 32, 1]), sgd(0.05)),
        lambda: data.table("diabetes", False),
        "diabetes",
        "targets from 25 to 346",
        batch_size=32,
    ),
    Recipe(
        "raw_targets_adam",
        numbers(lambda: dense([10, 32, 1]), adam(2e-3)),
        lambda: data.table("diabetes", False),
        "diabetes",
        "targets from 25 to 346, Adam",
        batch_size=32,
    ),
    Recipe(
        "raw_features_wine",
        classes(lambda: dense([13, 16, 3]), sgd()),
        lambda: data.unscaled_table("wine"),
        "wine",
        "features up to 1680",
        batch_size=16,
    ),
    Recipe(
        "raw_features_cancer",
        classes(lambda: dense([30, 16, 2], nn.Tanh), sgd()),
        lambda: data.unscaled_table("breast_cancer"),
        "breast_cancer",
        "features up to 4254",
        batch_size=32,
    ),
    digits("mixed_labels", "labels shuffled anew in each batch", lambda: dense(DIGITS), corrupt=mixed_labels),
    Recipe(
        "autoencoder_sigmoid_output",
        numbers(lambda: nn.Sequential(autoencoder(), nn.Sigmoid()), adam(3e-3)),
        lambda: data.digit_reconstruction(16.0),
        "autoencoder",
        "a sigmoid output for pixels from 0 to 16",
    ),
    # Step size
    digits("lr_100", "SGD with lr 10", lambda: initialized(dense(DIGITS), he()), sgd(10.0), "mlp_sgd"),
    digits("lr_30_tanh", "SGD with lr 30 into tanh", lambda: dense(DIGITS, nn.Tanh), sgd(30.0), "mlp_tanh"),
    digits("adam_lr_1", "Adam with lr 1", lambda: dense(DIGITS), adam(1.0)),
    digits("adam_lr_03_tanh", "Adam with lr 0.3 into tanh", lambda: dense(DIGITS, nn.Tanh), adam(0.3), "mlp_tanh"),
    digits("lr_tiny", "SGD with lr 1e-5", lambda: initialized(dense(DIGITS), he()), sgd(1e-5), "mlp_sgd"),
    digits("adam_lr_tiny", "Adam with lr 1e-7", lambda: dense(DIGITS), adam(1e-7)),
    digits("lr_hundredth", "SGD with lr 0.001", lambda: initialized(dense(DIGITS), he()), sgd(1e-3), "mlp_sgd"),
    digits(
        "schedule_too_short",
        "the schedule ends at step 8",
        lambda: dense(DIGITS),
        adam(1e-3),
        schedule=lambda s: max(0.0, 1 - s / 8),
    ),
    digits(
        "clip_tiny",
        "clipping at 1e-6",
        lambda: initialized(dense(DIGITS), he()),
        sgd(),
        "mlp_sgd",
        trainer=lambda: {"gradient_clip_val": 1e-6},
    ),
    digits(
        "loss_times_1e5",
        "the loss × 1e5 with the usual lr",
        lambda: initialized(dense(DIGITS), he()),
        sgd(),
        "mlp_sgd",
        loss=lambda o, t: 1e5 * F.cross_entropy(o, t),
    ),
    Recipe(
        "regression_lr",
        numbers(lambda: nn.Linear(10, 1), sgd(0.9)),
        lambda: data.table("diabetes"),
        "linear_regression",
        "lr above 2 / curvature",
        batch_size=32,
    ),
    Recipe(
        "logistic_lr",
        classes(lambda: nn.Linear(30, 2), sgd(100.0)),
        lambda: data.table("breast_cancer"),
        "breast_cancer",
        "lr 100",
        batch_size=32,
    ),
    Recipe(
        "momentum_edge",
        numbers(lambda: dense([10, 32, 1]), sgd(0.3, momentum=0.98)),
        lambda: data.table("diabetes"),
        "diabetes",
        "lr 0.3 with momentum 0.98",
        batch_size=32,
    ),
    Recipe(
        "adam_oscillates",
        classes(lambda: dense([30, 32, 32, 2]), adam(0.5)),
        lambda: data.table("breast_cancer"),
        "breast_cancer",
        "Adam with lr 0.5",
        batch_size=32,
    ),
    Recipe(
        "edge_of_stability",
        classes(lambda: dense([13, 16, 3]), sgd(8.0)),
        lambda: data.table("wine"),
        "wine",
        "lr 8",
        batch_size=16,
    ),
    Recipe(
        "gpt_lr", classes(gpt, adam(0.3)), data.text, "gpt", "Adam with lr 0.3, no warm-up", batch_size=16, steps=200
    ),
    Recipe("gpt_sgd_lr", classes(gpt, sgd(30.0)), data.text, "gpt", "SGD with lr 30", batch_size=16, steps=200),
    Recipe(
        "cnn_lr",
        classes(lambda: initialized(PlainCNN([8, 8, 16]), he()), sgd(3.0, momentum=0.9)),
        data.digit_images,
        "cnn_plain",
        "SGD with lr 3 and momentum",
    ),
    Recipe("lstm_lr", classes(lambda: Recurrent(nn.LSTM, 8), adam(1.0)), data.digit_rows, "lstm", "Adam with lr 1"),
    Recipe(
        "adam_low_eps",
        numbers(lambda: dense([10, 32, 32, 1], nn.Tanh), adam(0.3, eps=1e-30, betas=(0.9, 0.9))),
        lambda: data.table("diabetes"),
        "diabetes",
        "eps 1e-30, short second moment",
        batch_size=32,
    ),
    # Loss and regularisation
    digits("flipped_loss", "the sign of the loss", lambda: dense(DIGITS), loss=lambda o, t: -F.cross_entropy(o, t)),
    digits(
        "flipped_loss_sgd",
        "the sign of the loss, SGD",
        lambda: initialized(dense(DIGITS), he()),
        sgd(),
        "mlp_sgd",
        loss=lambda o, t: -F.cross_entropy(o, t),
    ),
    digits("l2", "L2 of 0.3", lambda: initialized(dense(DIGITS), he()), sgd(weight_decay=0.3), "mlp_sgd"),
    digits("l2_adam", "L2 of 0.1, Adam", lambda: dense(DIGITS), adam(weight_decay=0.1)),
    digits(
        "softmax_hidden",
        "softmax as hidden activation",
        lambda: dense([64] * 4 + [10], lambda: nn.Softmax(dim=1)),
        sgd(),
        "mlp_sgd",
    ),
    digits(
        "softmax_hidden_adam",
        "softmax as hidden activation, Adam",
        lambda: dense([64] * 4 + [10], lambda: nn.Softmax(dim=1)),
    ),
    digits(
        "softmax_twice",
        "softmax before cross-entropy, SGD",
        lambda: nn.Sequential(dense(DIGITS), nn.Softmax(dim=1)),
        sgd(0.01),
        "mlp_sgd",
    ),
    digits(
        "log_of_zero",
        "cross-entropy written as log(softmax)",
        lambda: initialized(dense(DIGITS), he(2.0)),
        sgd(),
        "mlp_sgd",
        loss=log_of_probabilities,
    ),
    digits(
        "dropout_99",
        "dropout of 0.99",
        lambda: dense([64, 64, 64, 10], lambda: nn.Sequential(nn.ReLU(), nn.Dropout(0.99))),
    ),
    digits(
        "doubled_norm",
        "batch norm twice",
        lambda: dense(DIGITS, lambda: nn.Sequential(nn.BatchNorm1d(64), nn.ReLU()), nn.BatchNorm1d),
    ),
    # Recurrence and attention
    Recipe(
        "rnn_gain_up",
        classes(lambda: Recurrent(lambda *a, **k: nn.RNN(*a, nonlinearity="relu", **k), 1, gain=2.5), sgd()),
        data.digit_pixels,
        "rnn",
        "recurrent gain 2.5, ReLU, 64 steps",
        steps=150,
    ),
    Recipe(
        "rnn_gain_tanh",
        classes(lambda: Recurrent(nn.RNN, 8, gain=20.0), sgd(0.05)),
        data.digit_rows,
        "rnn",
        "recurrent gain 20, tanh",
    ),
    Recipe("lstm_closed_gates", classes(closed_gates, adam()), data.digit_rows, "lstm", "gate biases of -12"),
    Recipe(
        "attention_sharp",
        classes(lambda: SharpAttention(sharpness=3000.0), sgd(0.1)),
        data.digit_rows,
        "attention",
        "attention logits × 3000",
    ),
    Recipe("gan_lr", lambda: Adversarial(lr=(0.5, 0.5)), data.ring, "gan", "both learning rates 0.5", steps=600),
    Recipe(
        "gan_strong_discriminator",
        lambda: Adversarial(lr=(1e-5, 0.05), scale=8.0),
        data.ring,
        "gan",
        "a discriminator that wins at once",
        steps=600,
    ),
    # Gradients that are not there
    digits(
        "detached_branch",
        "one branch detached",
        lambda: TwoBranches(Tensor.detach),
        location=("net.right.0", "net.right.2"),
    ),
    digits(
        "no_grad_encoder",
        "the encoder under no_grad, a head unused",
        lambda: Forgotten(no_grad=True),
        location=("net.encoder.0", "net.encoder.2"),
    ),
    digits(
        "forgotten_head",
        "a head that forward does not call",
        lambda: Forgotten(no_grad=False),
        location=("net.auxiliary",),
    ),
    digits(
        "argmax_inside",
        "a branch through sign()",
        lambda: TwoBranches(torch.sign),
        location=("net.right.0", "net.right.2"),
    ),
    # Not numbers
    digits(
        "nan_sample",
        "NaN in one sample",
        lambda: dense(DIGITS),
        data=lambda: data.with_value(data.digits(), float("nan")),
    ),
    Recipe(
        "inf_sample",
        classes(lambda: dense([30, 32, 2]), sgd()),
        lambda: data.with_value(data.table("breast_cancer"), float("inf")),
        "breast_cancer",
        "an infinite feature in one sample",
        batch_size=32,
    ),
    Recipe(
        "nan_target",
        numbers(lambda: dense([10, 32, 1]), sgd(0.05)),
        lambda: data.with_target(data.table("diabetes"), float("nan")),
        "diabetes",
        "NaN as one target",
        batch_size=32,
    ),
    digits(
        "nan_gradient",
        "a finite value with a gradient of 0 / 0",
        lambda: nn.Sequential(*dense([64, 64, 64]).children(), NormOfZero(), nn.ReLU(), nn.Linear(64, 10)),
        location=("net.3", "net.2"),
    ),
    # Dead units
    digits(
        "dead_bias",
        "biases of -20 before nn.ReLU",
        lambda: killed(initialized(dense(DIGITS), he()), -20.0, "2"),
        sgd(),
        "mlp_sgd",
        location=("net.2", "net.3"),
    ),
    digits(
        "dead_bias_functional",
        "biases of -20 before F.relu",
        lambda: killed(FunctionalMLP(DIGITS), -20.0, "hidden.1"),
        sgd(),
        "mlp_sgd",
        location=("net.hidden.1",),
    ),
    digits(
        "dead_bias_torch_relu",
        "biases of -20 before torch.relu",
        lambda: killed(FunctionalMLP([64, 64, 64, 64, 10], torch.relu), -20.0, "hidden.0"),
        adam(1e-3),
        location=("net.hidden.0",),
    ),
    digits(
        "dead_bias_first",
        "biases of -30 in the first layer, Adam",
        lambda: killed(dense(DIGITS), -30.0, "0"),
        adam(1e-3),
        location=("net.0", "net.1"),
    ),
    Recipe(
        "dead_channels",
        classes(lambda: killed(PlainCNN([8, 8, 16]), -15.0, "features.2"), sgd()),
        data.digit_images,
        "cnn_plain",
        "biases of -15 of a convolution",
        location=("net.features.2", "net.features.3"),
    ),
    Recipe(
        "dead_bottleneck",
        numbers(lambda: killed(autoencoder(), -15.0, "2"), adam(1e-3)),
        data.digit_reconstruction,
        "autoencoder",
        "biases of -15 in the bottleneck",
        location=("net.2", "net.3"),
    ),
    digits(
        "killed_by_lr",
        "SGD with lr 2 and momentum 0.9",
        lambda: initialized(dense(DIGITS), he()),
        sgd(2.0, momentum=0.9),
        "mlp_sgd",
    ),
    digits(
        "killed_by_a_batch",
        "one batch × 1000",
        lambda: initialized(dense(DIGITS), he()),
        sgd(),
        "mlp_sgd",
        corrupt=huge_batch,
    ),
    Recipe(
        "wine_killed",
        classes(lambda: dense([13, 16, 16, 3]), sgd(5.0, momentum=0.9)),
        lambda: data.table("wine"),
        "wine",
        "SGD with lr 5 and momentum",
        batch_size=16,
    ),
]
