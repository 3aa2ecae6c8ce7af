"""Stacks and recurrences in which the signal or the gradient fades or grows from layer to layer."""

import torch
from torch import nn

from detection import data
from detection.networks.attention import Encoder, Mixer
from detection.networks.convolutional import ConvNet, PlainCNN
from detection.networks.dense import dense, layers
from detection.networks.layers import Apply, Exponential
from detection.networks.recurrent import Recurrent, Stacked, Unrolled
from detection.networks.residual import Adding
from detection.networks.weights import he, initialized, xavier
from detection.optimizers import adam, rmsprop, sgd
from detection.recipe import trained
from detection.tasks import (
    on_cancer,
    on_diabetes,
    on_digits,
    on_images,
    on_iris,
    on_parity,
    on_recall,
    on_rows,
    on_waves,
    on_wine,
    reconstructing,
)

RECIPES = [
    on_digits(
        "sigmoid_10", lambda: layers(64, 48, 10, 10, nn.Sigmoid), sgd(), fault="10 sigmoid layers", twin="mlp_sgd"
    ),
    on_digits("sigmoid_8_adam", lambda: layers(64, 48, 8, 10, nn.Sigmoid), adam(1e-3), fault="8 sigmoid layers, Adam"),
    on_digits(
        "sigmoid_20_adam", lambda: layers(64, 48, 20, 10, nn.Sigmoid), adam(1e-3), fault="20 sigmoid layers, Adam"
    ),
    on_digits(
        "sigmoid_6_wide",
        lambda: layers(64, 128, 6, 10, nn.Sigmoid),
        sgd(),
        fault="6 sigmoid layers of 128 units",
        twin="mlp_sgd",
    ),
    on_digits(
        "tanh_20_half",
        lambda: initialized(layers(64, 48, 20, 10, nn.Tanh), xavier(0.5)),
        sgd(),
        fault="20 tanh layers with half of Glorot's weights",
        twin="mlp_sgd",
    ),
    on_digits(
        "tanh_30_default",
        lambda: layers(64, 48, 30, 10, nn.Tanh),
        sgd(),
        fault="30 tanh layers with torch's default weights",
        twin="mlp_sgd",
    ),
    on_digits(
        "relu_20_default",
        lambda: layers(64, 48, 20, 10, nn.ReLU),
        sgd(),
        fault="20 ReLU layers with torch's default weights",
        twin="mlp_sgd",
    ),
    on_digits(
        "relu_34_default",
        lambda: layers(64, 48, 34, 10, nn.ReLU),
        adam(),
        fault="34 ReLU layers with torch's default weights, Adam",
    ),
    on_digits(
        "relu_12_third",
        lambda: initialized(layers(64, 48, 12, 10, nn.ReLU), he(0.33)),
        sgd(),
        fault="12 ReLU layers with a third of He's weights",
        twin="mlp_sgd",
    ),
    on_digits(
        "softplus_16_small",
        lambda: initialized(layers(64, 48, 16, 10, nn.Softplus), xavier(0.2)),
        sgd(),
        fault="16 softplus layers with a fifth of Glorot's weights",
        twin="mlp_sgd",
    ),
    on_digits(
        "exponential_6",
        lambda: initialized(layers(64, 48, 6, 10, Exponential), xavier()),
        sgd(),
        fault="6 exponential layers",
        twin="mlp_sgd",
    ),
    on_images(
        "cnn_sigmoid", lambda: PlainCNN([8] * 7, nn.Sigmoid), adam(), fault="7 sigmoid convolutions", batch_size=64
    ),
    on_images(
        "cnn_deep_default",
        lambda: PlainCNN([8] * 14),
        sgd(0.1),
        fault="14 convolutions with torch's default weights",
        batch_size=64,
    ),
    trained(
        "rnn_gain_up",
        lambda: Recurrent(lambda *a, **k: nn.RNN(*a, nonlinearity="relu", **k), 1, gain=2.5),
        sgd(),
        fault="recurrent gain 2.5, ReLU, 64 steps",
        data=data.digit_pixels,
        twin="rnn",
        steps=150,
    ),
    on_rows(
        "rnn_gain_tanh", lambda: Recurrent(nn.RNN, 8, gain=20.0), sgd(0.05), fault="recurrent gain 20, tanh", twin="rnn"
    ),
    on_wine(
        "wine_sigmoid_12", lambda: layers(13, 24, 12, 3, nn.Sigmoid), rmsprop(), fault="12 sigmoid layers, RMSprop"
    ),
    on_digits(
        "gelu_18",
        lambda: layers(64, 40, 18, 10, nn.GELU),
        sgd(0.05, momentum=0.9),
        fault="18 GELU layers with torch's default weights, momentum",
        steps=150,
    ),
    on_cancer(
        "cancer_tanh_20",
        lambda: initialized(layers(30, 24, 20, 2, nn.Tanh), xavier(0.4)),
        sgd(0.05, momentum=0.5),
        fault="20 tanh layers with 0.4 of Glorot's weights",
        steps=200,
    ),
    on_diabetes(
        "softsign_16",
        lambda: initialized(layers(10, 24, 16, 1, nn.Softsign), xavier(0.4)),
        sgd(0.05),
        fault="16 softsign layers with 0.4 of Glorot's weights",
    ),
    on_images(
        "conv_net_tiny",
        lambda: initialized(ConvNet([8, 8, 8, 8]), he(0.05)),
        sgd(0.05, momentum=0.9),
        fault="4 functional convolutions with a twentieth of He's weights",
        steps=150,
    ),
    reconstructing(
        "autoencoder_sigmoid_deep",
        lambda: dense([64, 48, 32, 16, 8, 16, 32, 48, 64], nn.Sigmoid),
        adam(1e-3),
        fault="7 sigmoid layers around a bottleneck",
        steps=200,
    ),
    on_rows(
        "rnn_stack",
        lambda: Stacked(nn.RNN, 8, 10, 6, scale=0.3),
        sgd(0.1),
        fault="6 recurrent layers with a third of the weights",
        twin="lstm",
        steps=120,
    ),
    on_rows(
        "encoder_without_skips",
        lambda: Encoder(5, residual=False, norm=False),
        adam(1e-3),
        fault="5 transformer blocks with neither skip connections nor norms",
        steps=60,
    ),
    on_recall(
        "short_memory", lambda: Unrolled(2, 4, gain=0.2), sgd(0.1), fault="recurrent gain 0.2 over 12 steps", steps=150
    ),
    on_recall(
        "growing_state",
        lambda: Unrolled(2, 4, gain=2.2, activation=lambda s: s),
        sgd(0.05),
        fault="a linear recurrence of gain 2.2",
        steps=150,
    ),
    on_iris(
        "iris_tanh_16",
        lambda: initialized(layers(4, 20, 16, 3, nn.Tanh), xavier(0.4)),
        sgd(0.05, momentum=0.9),
        fault="16 tanh layers with 0.4 of Glorot's weights, momentum",
        steps=200,
        half="report",
    ),
    on_rows(
        "mixer_sigmoid",
        lambda: Mixer(6, nn.Sigmoid, False),
        adam(1e-3),
        fault="6 sigmoid mixer layers without skips",
        steps=120,
        half="report",
    ),
    on_waves(
        "siren_small",
        lambda: initialized(layers(2, 32, 8, 1, lambda: Apply(torch.sin)), xavier(0.25)),
        sgd(0.05),
        fault="8 sine layers with a quarter of Glorot's weights",
        steps=200,
        half="report",
    ),
    on_parity(
        "adding_48",
        lambda: Adding(64, 2, 48, nn.ELU, 1.5),
        sgd(0.01, momentum=0.9),
        fault="48 residual ELU blocks of gain 1.5 without norm",
        steps=100,
        half="report",
    ),
    on_diabetes(
        "adding_24",
        lambda: Adding(10, 1, 24, nn.ReLU, 2.0),
        adam(1e-3),
        fault="24 residual ReLU blocks of gain 2 without norm, Adam",
        steps=200,
        half="report",
    ),
    on_cancer(
        "sinh_6",
        lambda: initialized(layers(30, 24, 6, 2, lambda: Apply(torch.sinh)), xavier(1.5)),
        sgd(0.01),
        fault="6 layers of sinh",
        steps=200,
        half="report",
    ),
    on_rows(
        "relu_loop",
        lambda: Unrolled(8, 10, gain=6.0, activation=torch.relu),
        sgd(0.05),
        fault="a ReLU recurrence of gain 6",
        twin="rnn",
        steps=120,
        half="report",
    ),
]
