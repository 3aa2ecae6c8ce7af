"""Activations."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection.networks.attention import Mixer
from detection.networks.characters import gpt, small_gpt
from detection.networks.convolutional import ConvNet
from detection.networks.dense import DIGITS, FunctionalMLP, Maxout, dense
from detection.networks.generative import autoencoder
from detection.networks.layers import Apply
from detection.networks.weights import initialized, xavier
from detection.optimizers import adam, adamw, optimizer, rmsprop, sgd
from detection.tasks import (
    on_digits,
    on_friedman,
    on_images,
    on_long_text,
    on_parity,
    on_rows,
    on_spirals,
    on_text,
    on_waves,
    on_wine,
    reconstructing,
)


def straight_through(h: Tensor) -> Tensor:
    """A number rounded to halves, with the gradient of the number itself."""
    return h + ((2 * h).round() / 2 - h).detach()


def siren() -> nn.Module:
    """Sines as activations (Sitzmann et al. 2020, arXiv:2006.09661)."""
    return initialized(dense([2, 32, 32, 32, 1], lambda: Apply(torch.sin)), xavier(1.4))


RECIPES = [
    on_digits("selu", lambda: dense(DIGITS, nn.SELU), adam()),
    on_digits("sigmoid_shallow", lambda: dense([64, 64, 10], nn.Sigmoid), adam(1e-2)),
    on_digits("functional_relu", lambda: FunctionalMLP(DIGITS), adam()),
    on_long_text("gpt_relu", lambda: gpt(activation="relu"), adam(3e-3)),
    reconstructing("autoencoder_gelu", lambda: autoencoder(nn.GELU), adam(3e-3), steps=400),
    on_waves("gelu_regression", lambda: dense([2, 48, 48, 48, 1], nn.GELU), adamw(3e-3), hard=True),
    on_text("gpt_untied_silu", lambda: small_gpt(tied=False, activation="silu"), adam(1e-2)),
    on_rows("gelu_mixer", lambda: Mixer(3), adam(5e-3), steps=150, hard=True, half="report"),
    on_images(
        "gelu_conv_net", lambda: ConvNet([8, 12], F.gelu), sgd(0.05, momentum=0.9), steps=150, hard=True, half="report"
    ),
    on_waves("siren", siren, adam(3e-3), half="report"),
    on_parity(
        "straight_through",
        lambda: nn.Sequential(nn.Linear(64, 48), nn.Tanh(), Apply(straight_through), nn.Linear(48, 2)),
        adam(3e-3),
        steps=250,
        half="report",
    ),
    on_wine("maxout", lambda: Maxout(13, 3), sgd(0.05), half="report"),
    on_friedman(
        "gelu_friedman", lambda: dense([10, 40, 40, 40, 1], nn.GELU), optimizer("RAdam", 1e-2), hard=True, half="fresh"
    ),
    on_spirals(
        "bumps",
        lambda: nn.Sequential(nn.Linear(2, 96), Apply(lambda h: (-h.square()).exp()), nn.Linear(96, 2)),
        adam(2e-2),
        half="fresh",
    ),
    on_wine(
        "hard_tanh",
        lambda: initialized(dense([13, 24, 3], nn.Hardtanh), xavier()),
        rmsprop(3e-3),
        steps=250,
        half="fresh",
    ),
]
