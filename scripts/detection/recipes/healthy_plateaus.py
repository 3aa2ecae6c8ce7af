"""A loss that stands still for long, and falls then."""

from torch import nn

from detection import data
from detection.methods import alone
from detection.networks.dense import dense
from detection.networks.puzzles import Causal, Pair, Reader, Summing, deep_linear
from detection.networks.weights import initialized, xavier
from detection.optimizers import adam, adamw, sgd
from detection.recipe import numbers

RECIPES = [
    alone(
        "modular_sum",
        lambda: Pair(11),
        adamw(1e-2, weight_decay=0.1),
        data=data.modular,
        batch_size=121,
        steps=400,
    ),
    alone(
        "modular_sum_small_start",
        lambda: Pair(7, scale=1e-3),
        adamw(3e-3, weight_decay=0.1),
        data=lambda: data.modular(7),
        batch_size=49,
        steps=400,
    ),
    alone(
        "parity_of_three_bits",
        lambda: dense([10, 64, 2]),
        sgd(0.3),
        data=data.parity_of_bits,
        steps=400,
    ),
    alone(
        "parity_of_four_bits",
        lambda: dense([8, 64, 64, 2]),
        adam(1e-2),
        data=lambda: data.parity_of_bits(8, 4),
        batch_size=64,
        steps=400,
    ),
    alone(
        "steps_of_a_linear_net",
        lambda: deep_linear(8, 4, 0.45),
        sgd(0.06),
        data=data.teacher_matrix,
        make=numbers,
        steps=400,
    ),
    alone("adding", Summing, adam(1e-2), data=data.adding, make=numbers, steps=400),
    alone(
        "small_start",
        lambda: initialized(dense([64, 64, 64, 10], nn.Tanh), xavier(0.05)),
        sgd(0.2),
        data=data.digits,
        steps=400,
    ),
    alone("reversal", lambda: Reader(6, 16), adam(5e-3), data=data.reversal, batch_size=32, steps=200),
    alone("repeated_row", lambda: Causal(8, 24, depth=2), adam(5e-3), data=data.repeated, batch_size=32, steps=250),
]
