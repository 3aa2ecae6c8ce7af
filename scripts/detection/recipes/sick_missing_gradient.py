"""Parameters that get no gradient."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from detection import data
from detection.networks.attention import Encoder, Mixer
from detection.networks.characters import Bag
from detection.networks.dense import Experts, Forgotten, LowRank, TwoBranches, dense
from detection.networks.generative import Codebook
from detection.networks.layers import Apply
from detection.networks.recurrent import FirstStates, UnusedLayer
from detection.networks.weights import biased
from detection.optimizers import adam
from detection.tasks import on_bags, on_digits, on_images, on_iris, on_rows, on_wine, reconstructing


def after(net: Any, function: Callable[[Tensor], Tensor], place: int) -> nn.Module:
    """Return the sequence with a function put before one of its layers."""
    children = list(net.children())
    return nn.Sequential(*children[:place], Apply(function), *children[place:])


def detour(x: Tensor) -> Tensor:
    """Through NumPy and back, as a preprocessing step in the middle of a network does."""
    return torch.from_numpy(x.detach().numpy().copy())


def no_grad_lookup(embedding: nn.Module, ids: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = embedding(ids)
    return found


def step_function(h: Tensor) -> Tensor:
    return (h > 0).to(h.dtype)


RECIPES = [
    on_digits(
        "detached_branch",
        lambda: TwoBranches(Tensor.detach),
        adam(),
        fault="one branch detached",
        location=("net.right.0", "net.right.2"),
    ),
    on_digits(
        "no_grad_encoder",
        lambda: Forgotten(no_grad=True),
        adam(),
        fault="the encoder under no_grad, a head unused",
        location=("net.encoder.0", "net.encoder.2"),
    ),
    on_digits(
        "forgotten_head",
        lambda: Forgotten(no_grad=False),
        adam(),
        fault="a head that forward does not call",
        location=("net.auxiliary",),
    ),
    on_digits(
        "argmax_inside",
        lambda: TwoBranches(torch.sign),
        adam(),
        fault="a branch through sign()",
        location=("net.right.0", "net.right.2"),
    ),
    on_iris(
        "data_of_hidden",
        lambda: after(dense([4, 24, 24, 3]), lambda h: h.data, 2),
        adam(1e-2),
        fault="the hidden layer's .data",
        location=("net.0",),
    ),
    reconstructing(
        "rounded_code",
        lambda: after(dense([64, 32, 12, 64], nn.Tanh), lambda h: (4 * h).round() / 4, 4),
        adam(3e-3),
        fault="a code that is rounded to quarters",
        steps=200,
        location=("net.0", "net.2"),
    ),
    on_digits(
        "hard_gate",
        lambda: Experts(64, 10, hard=True),
        adam(5e-3),
        fault="a gate that takes the argmax",
        steps=200,
        location=("net.gate",),
    ),
    on_bags(
        "no_grad_lookup",
        lambda: Bag(data.VOCABULARY, 3, no_grad_lookup),
        adam(5e-3),
        fault="embeddings looked up under no_grad",
        steps=200,
        location=("net.embedding",),
    ),
    on_images(
        "detour_through_numpy",
        lambda: nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), Apply(detour), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10)
        ),
        adam(5e-3),
        fault="a convolution's output through NumPy and back",
        steps=150,
        location=("net.0",),
    ),
    on_rows(
        "unused_layer",
        UnusedLayer,
        adam(5e-3),
        fault="a recurrent layer whose output nothing reads",
        twin="lstm",
        steps=150,
        location=("net.backwards",),
    ),
    on_digits(
        "low_rank_zero",
        lambda: LowRank(both_zero=True),
        adam(5e-3),
        fault="both factors of a correction start at zero",
        steps=200,
        location=("net.down", "net.up"),
    ),
    on_rows(
        "detached_blocks",
        lambda: Encoder(2, between=Tensor.detach),
        adam(5e-3),
        fault="each transformer block's output detached",
        steps=150,
    ),
    on_wine(
        "step_function",
        lambda: nn.Sequential(nn.Linear(13, 24), nn.ELU(), nn.Linear(24, 24), Apply(step_function), nn.Linear(24, 3)),
        adam(5e-3),
        fault="hidden units that are 0 or 1",
        steps=200,
        location=("net.0", "net.2"),
        half="report",
    ),
    reconstructing(
        "codebook",
        Codebook,
        adam(5e-3),
        fault="a code that is looked up by argmin",
        steps=150,
        location=("net.encoder.0", "net.encoder.2"),
        half="report",
    ),
    on_rows(
        "first_states",
        FirstStates,
        adam(5e-3),
        fault="the output reads the lower of two LSTM layers",
        twin="lstm",
        steps=120,
        location=("net.upper",),
        half="report",
    ),
    on_rows(
        "detached_mixing",
        lambda: Mixer(2, branch=Tensor.detach),
        adam(5e-3),
        fault="a mixer's branches detached before they are added",
        steps=120,
        half="report",
    ),
    reconstructing(
        "clamped_output",
        lambda: nn.Sequential(biased(dense([64, 32, 64]), ("2", 8.0)), Apply(lambda h: h.clamp(0, 1))),
        adam(3e-3),
        fault="output biases of 8, clamped to 1",
        steps=150,
        half="report",
    ),
]
