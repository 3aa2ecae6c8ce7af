"""Rates that go up and down, data that get harder, change or are mostly wrong, batches of one, other precisions."""

import torch
from torch import Tensor, nn

from detection import data
from detection.methods import alone
from detection.networks.characters import small_gpt
from detection.networks.convolutional import ConvNet
from detection.networks.dense import DIGITS, dense
from detection.optimizers import adam, adamw, sgd
from detection.recipe import numbers
from detection.schedules import restarts


def one_cycle(step: int) -> float:
    """Up to the full rate at a third of the run, and down to nothing."""
    return 0.04 + 0.96 * step / 100 if step < 100 else max(0.0, (300 - step) / 200)


def zigzag(step: int) -> float:
    """From a hundredth of the rate to all of it and back in 80 steps, again and again."""
    return 0.01 + 0.99 * (1 - abs(step % 80 / 40 - 1))


def half_the_run(step: int) -> float:
    """A warm-up of 150 steps."""
    return min(1.0, (step + 1) / 150)


def inverse_root(step: int) -> float:
    """A warm-up of 40 steps and a slow fall (Vaswani et al., arXiv:1706.03762)."""
    return float(min((step + 1) / 40, (40 / (step + 1)) ** 0.5))


def growing(step: int) -> float:
    """The rate grows a thousandfold over the run."""
    return float(10 ** (step / 100 - 3))


def drop(step: int) -> float:
    return 1.0 if step < 180 else 0.01


def harder(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Noise that grows with the steps: so does the loss."""
    return x + min(1.5, step / 150) * torch.randn_like(x), y


def easy_ones_first(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Three digits alone for 100 steps, then all: a jump of the loss."""
    kept = y < 3
    return (x[kept], y[kept]) if step < 100 and bool(kept.any()) else (x, y)


def another_task(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """The target is turned around for the first 120 steps."""
    return (x, -y) if step < 120 else (x, y)


def mixed(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Samples are means of two, and so are their targets (Zhang et al., arXiv:1710.09412)."""
    share, other = torch.rand(len(x), 1), torch.randperm(len(x))
    return share * x + (1 - share) * x[other], share * y + (1 - share) * y[other]


def rarely_right(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Four labels in ten are drawn anew each time."""
    return x, torch.where(torch.rand(len(y)) < 0.4, torch.randint(10, y.shape), y)


RECIPES = [
    alone("up_and_down", lambda: dense(DIGITS), sgd(0.5), data=data.digits, schedule=one_cycle),
    alone("zigzag", lambda: ConvNet([8, 12]), sgd(0.2), data=data.digit_images, batch_size=32, schedule=zigzag),
    alone("half_the_run_warm_up", lambda: dense(DIGITS, nn.GELU), adam(3e-3), data=data.digits, schedule=half_the_run),
    alone(
        "restarts_of_75",
        lambda: dense([10, 40, 40, 1], nn.Tanh),
        sgd(0.2, momentum=0.9),
        data=data.friedman,
        make=numbers,
        schedule=restarts(75),
    ),
    alone(
        "inverse_root", small_gpt, adamw(2e-2), data=data.short_text, batch_size=24, steps=200, schedule=inverse_root
    ),
    alone("growing_rate", lambda: dense([64, 64, 10], nn.Tanh), sgd(0.5), data=data.digits, schedule=growing),
    alone(
        "late_drop",
        lambda: dense([10, 48, 48, 1], nn.SiLU),
        adam(2e-2),
        data=data.friedman,
        make=numbers,
        schedule=drop,
    ),
    alone("growing_noise", lambda: dense([64, 64, 64, 10], nn.SiLU), adam(2e-3), data=data.digits, corrupt=harder),
    alone("easy_ones_first", lambda: dense(DIGITS, nn.ELU), adam(2e-3), data=data.digits, corrupt=easy_ones_first),
    alone(
        "another_task",
        lambda: dense([10, 40, 40, 1], nn.SiLU),
        adam(5e-3),
        data=data.friedman,
        make=numbers,
        corrupt=another_task,
    ),
    alone(
        "mixed", lambda: dense([10, 40, 40, 1], nn.GELU), adam(1e-2), data=data.friedman, make=numbers, corrupt=mixed
    ),
    alone("rarely_right", lambda: dense([64, 64, 10], nn.SiLU), adam(2e-3), data=data.digits, corrupt=rarely_right),
    alone(
        "batch_of_one_numbers",
        lambda: dense([10, 24, 1], nn.Tanh),
        sgd(0.01),
        data=data.friedman,
        make=numbers,
        batch_size=1,
        steps=800,
    ),
    alone(
        "accumulated_ones",
        lambda: dense([4, 24, 24, 3], nn.SiLU),
        adam(1e-2),
        data=data.iris,
        batch_size=1,
        steps=80,
        trainer=lambda: {"accumulate_grad_batches": 10, "gradient_clip_val": 0.1},
    ),
    alone(
        "double_precision",
        lambda: dense([13, 24, 24, 3], nn.Tanh),
        adam(5e-3),
        data=data.wine,
        batch_size=16,
        trainer=lambda: {"precision": "64-true"},
    ),
    alone(
        "bfloat16_gpt",
        small_gpt,
        adamw(1e-2),
        data=data.short_text,
        batch_size=24,
        steps=150,
        trainer=lambda: {"precision": "bf16-mixed"},
    ),
    alone(
        "bfloat16_weights",
        lambda: dense([64, 64, 10], nn.SiLU),
        adamw(3e-3),
        data=data.digits,
        trainer=lambda: {"precision": "bf16-true"},
    ),
]
