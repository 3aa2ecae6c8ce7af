"""What makes an optimizer from the parameters."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch.optim import Optimizer

Make = Callable[[Iterable[Any]], Optimizer]


def optimizer(name: str, lr: float, **settings: Any) -> Make:
    """Return the optimizer of that name in `torch.optim`."""
    return partial(getattr(torch.optim, name), lr=lr, **settings)


def adam(lr: float = 2e-3, **settings: Any) -> Make:
    return optimizer("Adam", lr, **settings)


def adamw(lr: float = 2e-3, **settings: Any) -> Make:
    return optimizer("AdamW", lr, **settings)


def sgd(lr: float = 0.1, **settings: Any) -> Make:
    return optimizer("SGD", lr, **settings)


def rmsprop(lr: float = 1e-3, **settings: Any) -> Make:
    return optimizer("RMSprop", lr, **settings)


def adagrad(lr: float = 0.03, **settings: Any) -> Make:
    return optimizer("Adagrad", lr, **settings)


def slow_first_layer(parameters: Iterable[Any]) -> Optimizer:
    """Adam with a learning rate a hundredth as large for the first layer."""
    first, rest = list(parameters)[:2], list(parameters)[2:]
    return torch.optim.Adam([{"params": first, "lr": 3e-5}, {"params": rest, "lr": 3e-3}])
