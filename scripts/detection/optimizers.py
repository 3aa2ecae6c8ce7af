"""What makes an optimizer from the parameters."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor
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


class SignDescent(Optimizer):
    """Each weight moves by the rate against the sign of an average of its gradients (Bernstein et al. 2018)."""

    def __init__(self, parameters: Iterable[Any], lr: float, momentum: float = 0.9) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    def direction(self, weight: Tensor, slope: Tensor, group: dict[str, Any]) -> Tensor:
        """Return what the weight moves against."""
        mean: Tensor = self.state[weight].setdefault("mean", torch.zeros_like(weight))
        return mean.mul_(group["momentum"]).add_(slope, alpha=1 - group["momentum"]).sign()

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move all weights once."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.sub_(self.direction(weight, weight.grad, group), alpha=group["lr"])
        return loss


class Lion(SignDescent):
    """The sign of a mixture of the gradient and a slower average (Chen et al., arXiv:2302.06675)."""

    def direction(self, weight: Tensor, slope: Tensor, group: dict[str, Any]) -> Tensor:
        mean: Tensor = self.state[weight].setdefault("mean", torch.zeros_like(weight))
        towards = (0.9 * mean + 0.1 * slope).sign()
        mean.mul_(0.99).add_(slope, alpha=0.01)
        return towards


class LARS(SignDescent):
    """Momentum of gradients that are scaled to a thousandth of their layer's weights (You et al. 2017)."""

    def direction(self, weight: Tensor, slope: Tensor, group: dict[str, Any]) -> Tensor:
        mean: Tensor = self.state[weight].setdefault("mean", torch.zeros_like(weight))
        trust = 5e-3 * (weight.norm() + 1e-2) / (slope.norm() + 1e-9)
        return mean.mul_(group["momentum"]).add_(trust * slope)


class Noisy(SignDescent):
    """Plain descent along the gradient, cut to a norm of 1 per tensor, plus noise, as privacy asks for."""

    def direction(self, weight: Tensor, slope: Tensor, group: dict[str, Any]) -> Tensor:
        cut: Tensor = slope / slope.norm().clamp(min=1.0)
        return cut + 0.01 * torch.randn_like(slope)
