"""NaN and infinity: from the data, the network, the loss or the optimizer."""

import torch
from torch import Tensor, nn

from detection import data
from detection.corruptions import at, first_is, ignored
from detection.losses import distances, entropy_by_hand, squared_logarithms
from detection.networks.characters import small_gpt
from detection.networks.dense import DIGITS, dense
from detection.networks.layers import Apply, NormOfZero
from detection.optimizers import adam, rmsprop, sgd
from detection.recipe import numbers, trained
from detection.tasks import on_cancer, on_diabetes, on_digits, on_parity, on_petal, on_pixels, on_text, on_wine


def unit_length(h: Tensor) -> Tensor:
    """0 / 0 for a sample whose hidden units are all off."""
    return h / h.square().sum(dim=1, keepdim=True).sqrt()


def standardised_by_hand(x: Tensor) -> Tensor:
    """0 / 0 for pixels that are the same in the whole batch."""
    return (x - x.mean(dim=0)) / x.std(dim=0)


RECIPES = [
    on_digits(
        "nan_sample",
        lambda: dense(DIGITS),
        adam(),
        fault="NaN in one sample",
        data=lambda: data.with_value(data.digits(), float("nan")),
    ),
    trained(
        "inf_sample",
        lambda: dense([30, 32, 2]),
        sgd(),
        fault="an infinite feature in one sample",
        data=lambda: data.with_value(data.table("breast_cancer"), float("inf")),
        twin="breast_cancer",
        batch_size=32,
    ),
    trained(
        "nan_target",
        lambda: dense([10, 32, 1]),
        sgd(0.05),
        fault="NaN as one target",
        data=lambda: data.with_target(data.diabetes(), float("nan")),
        twin="diabetes",
        make=numbers,
        batch_size=32,
    ),
    on_digits(
        "nan_gradient",
        lambda: nn.Sequential(*dense([64, 64, 64]).children(), NormOfZero(), nn.ReLU(), nn.Linear(64, 10)),
        adam(),
        fault="a finite value with a gradient of 0 / 0",
        location=("net.3", "net.2"),
    ),
    on_pixels(
        "log_of_pixels",
        lambda: nn.Sequential(Apply(torch.log), dense(DIGITS)),
        adam(),
        fault="log of pixels that are 0",
        steps=200,
    ),
    on_wine(
        "nan_at_80",
        lambda: dense([13, 24, 3], nn.Tanh),
        rmsprop(),
        fault="NaN in the batch of step 80",
        corrupt=at(80, lambda x, y: (first_is(float("nan"))(x), y)),
    ),
    on_diabetes(
        "inf_target_at_150",
        lambda: dense([10, 24, 1], nn.ELU),
        adam(),
        fault="an infinite target in the batch of step 150",
        corrupt=at(150, lambda x, y: (x, first_is(float("inf"))(y))),
    ),
    on_wine(
        "distance_to_itself",
        lambda: dense([13, 24, 3]),
        adam(),
        fault="sqrt(0) in the loss, whose gradient is NaN",
        loss=distances,
    ),
    on_pixels(
        "adam_no_eps",
        lambda: dense([64, 48, 10]),
        adam(eps=0.0),
        fault="eps 0, where the weights of empty pixels have no gradient",
        steps=200,
        location=("net.0",),
    ),
    on_digits(
        "unit_length",
        lambda: nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.6), Apply(unit_length), nn.Linear(16, 10)),
        adam(),
        fault="hidden units divided by their norm, now and then 0 / 0",
        steps=200,
        location=("net.3", "net.2", "net.0"),
    ),
    on_diabetes(
        "exponential_output",
        lambda: nn.Sequential(dense([10, 24, 1], nn.SiLU), Apply(torch.exp)),
        sgd(1e-3),
        fault="exp as the output, targets from 25 to 346",
        data=lambda: data.table("diabetes", False),
    ),
    on_cancer(
        "entropy_by_hand",
        lambda: dense([30, 24, 2]),
        sgd(2.0),
        fault="log(1 - p) where p has reached 1",
        loss=entropy_by_hand,
    ),
    on_petal(
        "log_of_negative",
        lambda: dense([3, 16, 1]),
        adam(),
        fault="logarithms of targets below -1",
        steps=200,
        loss=squared_logarithms,
        half="report",
    ),
    on_parity(
        "constant_pixels",
        lambda: nn.Sequential(Apply(standardised_by_hand), dense([64, 32, 2], nn.Tanh)),
        adam(),
        fault="inputs divided by a deviation that is 0 for some",
        data=lambda: data.make(data.pixels().inputs, data.parity().targets),
        steps=150,
        half="report",
    ),
    on_wine(
        "inverse_of_tanh",
        lambda: nn.Sequential(nn.Linear(13, 24), nn.Tanh(), Apply(lambda h: torch.atanh(1.005 * h)), nn.Linear(24, 3)),
        sgd(0.1),
        fault="atanh of numbers that come to be above 1",
        steps=200,
        location=("net.2", "net.1", "net.0"),
        half="report",
    ),
    on_text(
        "gpt_ignored_batch",
        small_gpt,
        adam(1e-2),
        fault="a batch all of whose labels are left out",
        steps=150,
        corrupt=ignored,
        half="report",
    ),
]
