"""What changes the batch of a step: of one step, of many, or of every one."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def mixed_labels(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
    return x, y[torch.randperm(len(y))]


def huge_batch(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """A burst of huge inputs at one step, which throws biases far below zero."""
    return (x * 1e3, y) if step == 100 else (x, y)


def outlier(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
    return (x * 20, y) if step == 120 else (x, y)


def outlier_targets(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
    return (x, 40 * y) if step == 90 else (x, y)


def outlier_inputs(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
    return (x * 50, y) if step == 70 else (x, y)


def at(step: int, change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Any:
    """Return what changes the batch of one step."""
    return lambda x, y, now: change(x, y) if now == step else (x, y)


def first_is(value: float) -> Callable[[Tensor], Tensor]:
    """Return what replaces the first number of a batch."""

    def change(x: Tensor) -> Tensor:
        x = x.clone()
        x.view(-1)[0] = value
        return x

    return change


def swapped(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets shuffled apart, as two loaders that each shuffle do."""
    return x[torch.randperm(len(x))], y


def flipping(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Labels that a loader mixes up for 20 steps out of 40."""
    return (x, 1 - y) if step // 20 % 2 else (x, y)


def ignored(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """A batch all of whose labels are left out: a mean over nothing."""
    return (x, torch.full_like(y, -100)) if step == 75 else (x, y)


def wrong_labels(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
    return (x, 1 - y) if step == 110 else (x, y)


def bright(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
    return (x * 15 + 5, y) if step == 60 else (x, y)


def blank(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
    return (torch.zeros_like(x), y) if step == 100 else (x, y)


def far_targets(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
    return (x, y + 12) if step == 60 else (x, y)


def one_class(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
    return (8 * x, torch.zeros_like(y)) if step == 80 else (x, y)


def with_noise(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
    return x + 0.3 * torch.randn_like(x), y


def erased(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
    return x * (torch.rand_like(x) < 0.6), y
