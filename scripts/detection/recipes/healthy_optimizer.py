"""Optimizers and their settings."""

from torch import nn

from detection.networks.convolutional import PlainCNN
from detection.networks.dense import DIGITS, dense
from detection.networks.weights import he, initialized
from detection.optimizers import adam, optimizer, sgd, slow_first_layer
from detection.tasks import on_cancer, on_diabetes, on_digits, on_images, on_pixels, on_wine

RECIPES = [
    on_wine("wine_sgd", lambda: dense([13, 16, 3]), sgd(0.1)),
    on_digits("leaky_relu", lambda: dense(DIGITS, nn.LeakyReLU), sgd(0.1, momentum=0.9)),
    on_digits("momentum", lambda: dense(DIGITS), sgd(0.05, momentum=0.9)),
    on_images("cnn_momentum", lambda: initialized(PlainCNN([8, 8, 16]), he()), sgd(0.05, momentum=0.9), batch_size=64),
    on_diabetes("diabetes_adam", lambda: dense([10, 32, 32, 1]), adam(2e-3)),
    on_cancer("breast_cancer_adam", lambda: dense([30, 32, 32, 2]), adam(2e-3)),
    on_digits("slow_first_layer", lambda: dense([64, 64, 48, 10], nn.SiLU), slow_first_layer, steps=250, half="fresh"),
    on_pixels(
        "pixels_signs",
        lambda: dense([64, 64, 10], nn.SELU),
        optimizer("Rprop", 2e-3),
        batch_size=640,
        steps=120,
        half="fresh",
    ),
]
