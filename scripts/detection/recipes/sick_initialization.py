"""Initial weights that are constant, too small or too large, and missing normalisation."""

import torch
from torch import nn

from detection import data
from detection.networks.characters import Bag, gpt, small_gpt
from detection.networks.convolutional import ConvNet, ResidualConvNet
from detection.networks.dense import DIGITS, dense, layers
from detection.networks.generative import autoencoder
from detection.networks.layers import Apply
from detection.networks.residual import ResidualStack
from detection.networks.weights import biased, constant, he, initialized, orthogonal, positive, scaled_layer, xavier
from detection.optimizers import adagrad, adam, adamw, rmsprop, sgd
from detection.tasks import (
    on_bags,
    on_cancer,
    on_diabetes,
    on_digits,
    on_images,
    on_iris,
    on_long_text,
    on_petal,
    on_text,
    on_wine,
    reconstructing,
)


def wide_embedding(scale: float) -> nn.Module:
    net = Bag(data.VOCABULARY, 3, lambda embedding, ids: embedding(ids))
    with torch.no_grad():
        net.embedding.weight.mul_(scale)
    return net


RECIPES = [
    on_digits(
        "constant_init",
        lambda: initialized(dense([64, 64, 64, 10]), constant(0.05)),
        sgd(),
        fault="every weight 0.05",
        twin="mlp_sgd",
    ),
    on_digits(
        "ones_init",
        lambda: initialized(dense([64, 64, 64, 10]), constant(1.0)),
        sgd(),
        fault="every weight 1",
        twin="mlp_sgd",
    ),
    on_digits(
        "zero_init", lambda: initialized(dense(DIGITS), constant(0.0)), sgd(), fault="every weight 0", twin="mlp_sgd"
    ),
    on_digits(
        "tiny_init",
        lambda: initialized(layers(64, 48, 4, 10, nn.ReLU), he(0.01)),
        sgd(),
        fault="weights a hundredth of He's",
        twin="mlp_sgd",
    ),
    on_digits(
        "huge_init",
        lambda: initialized(layers(64, 48, 8, 10, nn.ReLU), he(5.0)),
        sgd(),
        fault="weights 5 times He's, 8 layers",
        twin="mlp_sgd",
    ),
    on_digits(
        "huge_init_adam",
        lambda: initialized(layers(64, 48, 10, 10, nn.ReLU), he(5.0)),
        adam(),
        fault="weights 5 times He's, 10 layers, Adam",
    ),
    on_digits(
        "tanh_huge_init",
        lambda: initialized(dense([64] * 5 + [10], nn.Tanh), xavier(20.0)),
        sgd(0.01),
        fault="tanh with 20 times Glorot's weights",
        twin="mlp_tanh",
    ),
    on_digits(
        "sigmoid_huge_init",
        lambda: initialized(dense([64] * 4 + [10], nn.Sigmoid), xavier(30.0)),
        sgd(0.01),
        fault="sigmoid with 30 times Glorot's weights",
        twin="mlp_sgd",
    ),
    on_long_text(
        "gpt_huge_init", lambda: gpt(init_std=1.0), adam(3e-3), fault="embeddings and weights with deviation 1"
    ),
    reconstructing(
        "autoencoder_huge_init",
        lambda: autoencoder(nn.Tanh, 15.0),
        sgd(0.05),
        fault="tanh autoencoder with 15 times Glorot's weights",
    ),
    on_digits(
        "residual_gain",
        lambda: ResidualStack(24, gain=2.0),
        sgd(0.01),
        fault="24 residual blocks without norm, each of gain 2",
        twin="mlp_sgd",
    ),
    on_images(
        "conv_net_zero",
        lambda: initialized(ConvNet([8, 8]), constant(0.0)),
        sgd(0.1),
        fault="every weight 0 in a CNN",
        steps=150,
    ),
    on_wine(
        "wine_constant",
        lambda: initialized(dense([13, 24, 24, 3], nn.Tanh), constant(0.3)),
        sgd(0.05),
        fault="every weight 0.3, tanh",
    ),
    reconstructing(
        "autoencoder_constant",
        lambda: initialized(dense([64, 32, 64], nn.ELU), constant(0.02)),
        sgd(0.5),
        fault="every weight 0.02",
        steps=200,
    ),
    on_diabetes(
        "huge_output_layer",
        lambda: scaled_layer(dense([10, 32, 1], nn.Tanh), "2", 300.0),
        adam(1e-3),
        fault="an output layer with 300 times the weights, a small learning rate",
    ),
    on_bags("huge_embedding", lambda: wide_embedding(2000.0), adam(1e-3), fault="embeddings times 2000", steps=200),
    on_images(
        "residual_conv_no_norm",
        lambda: ResidualConvNet(8, norm=False, gain=2.0),
        sgd(0.01),
        fault="8 residual convolution blocks of gain 2 without norm",
        steps=100,
    ),
    on_cancer(
        "selu_huge",
        lambda: initialized(layers(30, 24, 12, 2, nn.SELU), xavier(4.0)),
        sgd(0.01),
        fault="SELU with 4 times Glorot's weights, 12 layers",
    ),
    on_iris(
        "cubes",
        lambda: initialized(layers(4, 16, 6, 3, lambda: Apply(lambda h: h**3)), xavier()),
        sgd(0.05),
        fault="6 layers of cubes",
    ),
    on_text("gpt_huge_std", lambda: small_gpt(init_std=2.0), sgd(0.3), fault="embeddings and weights with deviation 2"),
    on_wine(
        "orthogonal_gain_4",
        lambda: initialized(layers(13, 24, 8, 3, nn.LeakyReLU), orthogonal(4.0)),
        adam(1e-3),
        fault="8 leaky layers of orthogonal weights of gain 4",
        steps=200,
        half="report",
    ),
    on_digits(
        "positive_weights",
        lambda: initialized(layers(64, 48, 4, 10, nn.GELU), positive),
        rmsprop(1e-3),
        fault="weights between 0 and 1, GELU",
        steps=150,
        half="report",
    ),
    on_iris(
        "iris_all_equal",
        lambda: initialized(dense([4, 16, 16, 3], nn.GELU), constant(-0.1)),
        adagrad(),
        fault="every weight -0.1, GELU",
        steps=200,
        half="report",
    ),
    on_petal(
        "far_output",
        lambda: biased(dense([3, 16, 1], nn.SiLU), ("2", 40.0)),
        adam(5e-3),
        fault="an output bias of 40 with a small learning rate",
        steps=200,
        half="report",
    ),
    on_text(
        "gpt_far_output",
        lambda: scaled_layer(small_gpt(tied=False), "output", 500.0),
        adamw(1e-3),
        fault="500 times the weights of the output layer",
        half="report",
    ),
]
