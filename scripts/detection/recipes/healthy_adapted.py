"""Trained before the run began: a frozen body, small changes of it, or all of it at a low rate."""

from torch import nn

from detection import data
from detection.methods import alone
from detection.networks.dense import dense
from detection.networks.pretrained import (
    Bottlenecks,
    Prompted,
    biases_alone,
    of_half_the_digits,
    pretrained,
    probe,
    with_low_rank_changes,
)
from detection.optimizers import adam, adamw, sgd
from detection.schedules import linear_warmup


def known_already() -> nn.Module:
    """A network that knows the task: its loss starts near its end."""
    return pretrained(dense([64, 64, 10], nn.Tanh), data.digits().inputs, data.digits().targets, steps=60)


def thawed(step: int) -> float:
    """A hundred steps at a tenth of the rate, then all of it."""
    return 0.1 if step < 100 else 1.0


RECIPES = [
    alone("linear_probe", probe, adam(1e-2), data=data.digits),
    alone("low_rank_changes", lambda: with_low_rank_changes(of_half_the_digits(), 4), adamw(5e-3), data=data.digits),
    alone(
        "low_rank_of_one",
        lambda: with_low_rank_changes(of_half_the_digits(nn.Tanh), 1),
        adam(2e-2),
        data=data.digits,
        schedule=linear_warmup,
    ),
    alone("biases_alone", lambda: biases_alone(of_half_the_digits(nn.ELU)), adam(3e-2), data=data.digits, steps=400),
    alone("bottlenecks", lambda: Bottlenecks(of_half_the_digits()), adam(5e-3), data=data.digits),
    alone("prompts", Prompted, adam(2e-2), data=data.digit_rows, batch_size=32, steps=200),
    alone("known_already", known_already, sgd(0.01, momentum=0.9), data=data.digits),
    alone("fine_tuned", of_half_the_digits, adam(1e-3), data=data.digits, schedule=thawed),
]
