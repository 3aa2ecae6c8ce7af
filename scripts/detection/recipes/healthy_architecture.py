"""Further architectures."""

from functools import partial

from torch import nn

from detection import data
from detection.networks.characters import Reader, gpt
from detection.networks.convolutional import Dilated, SqueezeExcite
from detection.networks.dense import CosineLogits, Experts, TwoBranches, dense
from detection.networks.generative import TiedAutoencoder
from detection.networks.recurrent import Recurrent
from detection.optimizers import adam
from detection.recipe import trained
from detection.tasks import on_bags, on_digits, on_images, on_long_text, on_rows, reconstructing

RECIPES = [
    on_digits("two_branches", TwoBranches, adam()),
    on_rows("gru", lambda: Recurrent(nn.GRU, 8), adam(5e-3), twin="lstm"),
    on_long_text("gpt_untied", lambda: gpt(tied=False), adam(3e-3)),
    reconstructing("autoencoder_wide", lambda: dense([64, 96, 32, 96, 64]), adam(2e-3), steps=400),
    reconstructing("tied_autoencoder", TiedAutoencoder, adam(5e-3)),
    on_digits("experts", lambda: Experts(64, 10), adam(5e-3), steps=200),
    on_images("squeeze_excite", SqueezeExcite, adam(1e-2), steps=150, half="report"),
    on_bags(
        "both_directions",
        lambda: Reader(data.VOCABULARY, 3, partial(nn.LSTM, bidirectional=True)),
        adam(2e-2),
        steps=250,
        half="report",
    ),
    on_digits("cosine_logits", CosineLogits, adam(5e-3), steps=250, half="fresh"),
    trained(
        "dilated", Dilated, adam(1e-2), data=data.digit_pixels, twin="dilated", batch_size=25, steps=160, half="fresh"
    ),
]
