"""Single layers that torch does not have."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Apply(nn.Module):
    """Any function as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Exponential(nn.Module):
    """exp(x), one of the activations that AutoTrainer's recipes stack."""

    def forward(self, x: Tensor) -> Tensor:
        return x.exp()


class NormOfZero(nn.Module):
    """x times 1 + the root of a sum of squares that is zero: a finite value with a gradient of 0 / 0."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + (x - x).square().sum(dim=1, keepdim=True).sqrt())


class TopK(nn.Module):
    """All but the ``k`` largest units of each sample are zero."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, x: Tensor) -> Tensor:
        least = x.topk(self.k, dim=1).values[:, -1:]
        return torch.where(x >= least, x, 0.0)


class Inner(nn.Module):
    """A network that reads sequences as one long vector."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x.flatten(1))
        return y
