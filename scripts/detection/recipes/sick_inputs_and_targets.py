"""Inputs, targets and labels that are unscaled, mixed up or lost."""

from torch import nn

from detection import data
from detection.corruptions import flipping, mixed_labels, swapped
from detection.networks.dense import DIGITS, dense
from detection.networks.generative import autoencoder
from detection.networks.recurrent import Stacked
from detection.networks.weights import he, initialized
from detection.optimizers import adagrad, adam, sgd
from detection.recipe import numbers, trained
from detection.tasks import on_cancer, on_diabetes, on_digits, on_petal, on_rows, on_wine

RECIPES = [
    on_digits(
        "tanh_inputs_100",
        lambda: dense([64, 64, 64, 10], nn.Tanh),
        sgd(0.01),
        fault="inputs × 100 into tanh",
        data=lambda: data.scaled(data.digits(), 100),
        twin="mlp_tanh",
    ),
    on_digits(
        "relu_inputs_100",
        lambda: initialized(dense(DIGITS), he()),
        sgd(),
        fault="inputs × 100",
        data=lambda: data.scaled(data.digits(), 100),
        twin="mlp_sgd",
    ),
    trained(
        "raw_targets",
        lambda: dense([10, 32, 32, 1]),
        sgd(0.05),
        fault="targets from 25 to 346",
        data=lambda: data.table("diabetes", False),
        twin="diabetes",
        make=numbers,
        batch_size=32,
    ),
    trained(
        "raw_targets_adam",
        lambda: dense([10, 32, 1]),
        adam(2e-3),
        fault="targets from 25 to 346, Adam",
        data=lambda: data.table("diabetes", False),
        twin="diabetes",
        make=numbers,
        batch_size=32,
    ),
    trained(
        "raw_features_wine",
        lambda: dense([13, 16, 3]),
        sgd(),
        fault="features up to 1680",
        data=lambda: data.unscaled_table("wine"),
        twin="wine",
        batch_size=16,
    ),
    trained(
        "raw_features_cancer",
        lambda: dense([30, 16, 2], nn.Tanh),
        sgd(),
        fault="features up to 4254",
        data=lambda: data.unscaled_table("breast_cancer"),
        twin="breast_cancer",
        batch_size=32,
    ),
    on_digits(
        "mixed_labels", lambda: dense(DIGITS), adam(), fault="labels shuffled anew in each batch", corrupt=mixed_labels
    ),
    trained(
        "autoencoder_sigmoid_output",
        lambda: nn.Sequential(autoencoder(), nn.Sigmoid()),
        adam(3e-3),
        fault="a sigmoid output for pixels from 0 to 16",
        data=lambda: data.digit_reconstruction(16.0),
        twin="autoencoder",
        make=numbers,
    ),
    on_wine(
        "wine_raw_sigmoid",
        lambda: dense([13, 24, 24, 3], nn.Sigmoid),
        adam(1e-3),
        fault="features up to 1680 into sigmoids",
        data=lambda: data.unscaled_table("wine"),
    ),
    on_diabetes(
        "targets_in_thousands",
        lambda: dense([10, 24, 1], nn.GELU),
        sgd(0.05),
        fault="targets × 1000, SGD",
        data=lambda: data.with_targets(data.diabetes(), 1e3, 0.0),
    ),
    on_diabetes(
        "targets_in_thousands_adagrad",
        lambda: dense([10, 24, 1]),
        adagrad(),
        fault="targets × 1000, Adagrad",
        data=lambda: data.with_targets(data.diabetes(), 1e3, 0.0),
    ),
    on_digits(
        "inputs_divided",
        lambda: dense([64, 48, 48, 10], nn.SiLU),
        sgd(0.1),
        fault="inputs ÷ 10000",
        data=lambda: data.scaled(data.digits(), 1e-4),
        steps=200,
    ),
    on_wine(
        "wine_shuffled",
        lambda: dense([13, 16, 3]),
        sgd(0.1),
        fault="inputs shuffled apart from labels",
        corrupt=swapped,
    ),
    on_diabetes(
        "sigmoid_inputs_500",
        lambda: dense([10, 24, 24, 1], nn.Sigmoid),
        sgd(0.01),
        fault="inputs × 500 into sigmoids",
        data=lambda: data.scaled(data.diabetes(), 500),
        steps=200,
        half="report",
    ),
    on_petal(
        "tanh_output",
        lambda: nn.Sequential(dense([3, 16, 1], nn.Tanh), nn.Tanh()),
        adam(1e-2),
        fault="a tanh output for targets around 5",
        data=lambda: data.make(data.petal().inputs, data.petal().targets + 5),
        steps=200,
        half="report",
    ),
    on_rows(
        "rnn_inputs_300",
        lambda: Stacked(nn.RNN, 8, 10, 2),
        sgd(0.02),
        fault="inputs × 300 into a tanh RNN",
        data=lambda: data.scaled(data.digit_rows(), 300),
        twin="rnn",
        steps=120,
        half="report",
    ),
    on_wine(
        "inputs_lost",
        lambda: dense([13, 24, 24, 3], nn.SiLU),
        adam(),
        fault="every feature 0",
        data=lambda: data.scaled(data.wine(), 0.0),
        steps=200,
        half="report",
    ),
    on_cancer(
        "flipping_labels",
        lambda: dense([30, 24, 2]),
        sgd(0.2),
        fault="labels flipped half of the time",
        steps=200,
        corrupt=flipping,
        half="report",
    ),
]
