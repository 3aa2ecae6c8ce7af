"""What the other recipes are compared with."""

from torch import nn

from detection import data
from detection.experiment import Adversarial, NormalisedAdversarial, SpectralAdversarial
from detection.networks.attention import SharpAttention
from detection.networks.characters import gpt, small_gpt
from detection.networks.convolutional import PlainCNN
from detection.networks.dense import DIGITS, dense
from detection.networks.generative import autoencoder
from detection.networks.layers import Inner
from detection.networks.recurrent import Recurrent, Stacked
from detection.networks.weights import he, initialized
from detection.optimizers import adam, sgd
from detection.recipe import Recipe
from detection.tasks import (
    coding_wine,
    on_cancer,
    on_diabetes,
    on_digits,
    on_friedman,
    on_halves,
    on_images,
    on_iris,
    on_long_text,
    on_parity,
    on_petal,
    on_pixels,
    on_recall,
    on_rows,
    on_sines,
    on_spirals,
    on_text,
    on_waves,
    on_wine,
    reconstructing,
)

RECIPES = [
    on_digits("mlp_adam", lambda: dense(DIGITS), adam()),
    on_digits("mlp_sgd", lambda: initialized(dense(DIGITS), he()), sgd(), twin="mlp_sgd"),
    on_digits("mlp_tanh", lambda: dense(DIGITS, nn.Tanh), adam(), twin="mlp_tanh"),
    on_images("cnn_plain", lambda: PlainCNN([8, 8, 16]), adam(5e-3), batch_size=64),
    on_rows("rnn", lambda: Recurrent(nn.RNN, 8, gain=1.0), adam(), twin="rnn"),
    on_rows("lstm", lambda: Recurrent(nn.LSTM, 8), adam(5e-3), twin="lstm"),
    on_long_text("gpt", gpt, adam(3e-3)),
    on_rows("attention", SharpAttention, adam(5e-3)),
    reconstructing("autoencoder", autoencoder, adam(3e-3), steps=400),
    Recipe("gan", Adversarial, data.ring, "gan", steps=600, hard=True),
    on_diabetes("diabetes", lambda: dense([10, 32, 1]), sgd(0.05)),
    on_cancer("breast_cancer", lambda: dense([30, 16, 2], nn.Tanh), sgd()),
    on_wine("wine", lambda: dense([13, 16, 3]), adam(5e-3)),
    on_text("small_gpt", small_gpt, adam(1e-2)),
    on_pixels("pixels", lambda: dense(DIGITS), adam(5e-3), steps=250),
    on_iris("iris", lambda: dense([4, 16, 16, 3], nn.Tanh), adam(1e-2)),
    on_waves("waves", lambda: dense([2, 32, 32, 1], nn.Tanh), adam(1e-2)),
    on_recall("recall", lambda: Stacked(nn.GRU, 2, 4, 1), adam(1e-2), steps=200),
    Recipe("gan_clusters", lambda: Adversarial(lr=(1e-3, 4e-3)), data.clusters, "gan_clusters", steps=600, hard=True),
    on_halves("half_image", lambda: dense([32, 64, 64, 32], nn.SiLU), adam(3e-3), steps=200, half="report"),
    on_parity("parity", lambda: dense([64, 48, 24, 2]), adam(2e-3), steps=250, half="report"),
    coding_wine("wine_code", lambda: dense([13, 24, 6, 24, 13], nn.ELU), adam(5e-3), half="report"),
    on_petal("petal", lambda: dense([3, 16, 1], nn.Tanh), sgd(0.05, momentum=0.9), half="report"),
    Recipe(
        "gan_arc", lambda: NormalisedAdversarial((2e-3, 2e-3)), data.arc, "gan_arc", steps=600, hard=True, half="report"
    ),
    on_spirals("spirals", lambda: dense([2, 48, 48, 2], nn.Tanh), adam(1e-2), half="fresh"),
    on_friedman("friedman", lambda: dense([10, 32, 32, 1], nn.SiLU), adam(5e-3), half="fresh"),
    on_sines("sines", lambda: Inner(dense([16, 32, 4], nn.Tanh)), adam(1e-2), steps=250, half="fresh"),
    Recipe("gan_crescent", SpectralAdversarial, data.crescent, "gan_crescent", steps=600, hard=True, half="fresh"),
]
