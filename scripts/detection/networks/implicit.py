"""Networks that are solved, integrated or differentiated inside."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection.networks.dense import dense


class FixedPoint(nn.Module):
    """A state that one layer maps to itself: found without gradients, then one step with (Bai et al. 2019)."""

    def __init__(self, features: int, outputs: int, width: int = 32) -> None:
        super().__init__()
        self.read = nn.Linear(features, width)
        self.state = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, outputs)
        nn.init.orthogonal_(self.state.weight, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.read(x)
        h = torch.zeros_like(seen)
        with torch.no_grad():
            for _ in range(20):
                h = torch.tanh(self.state(h) + seen)
        y: Tensor = self.output(torch.tanh(self.state(h) + seen))
        return y


class Integrated(nn.Module):
    """Euler's steps along a field (Chen et al., arXiv:1806.07366)."""

    def __init__(self, features: int, steps: int = 12, width: int = 32) -> None:
        super().__init__()
        self.field = dense([features, width, width, features], nn.Tanh)
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.steps):
            x = x + self.field(x) / self.steps
        return x


class Energy(nn.Module):
    """How a state changes, by the slopes of an energy (Greydanus et al., arXiv:1906.01563)."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.energy = nn.Sequential(dense([2, width, width], nn.Tanh), nn.Tanh(), nn.Linear(width, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            state = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.energy(state).sum(), state, create_graph=True)
        return torch.stack([slope[:, 1], -slope[:, 0]], dim=1)


def adapted(net: nn.Module, x: Tensor, y: Tensor, rate: float = 0.1) -> Callable[[Tensor], Tensor]:
    """Return a network of two hidden layers after a gradient step of its own for each task, which has a gradient."""

    def run(given: Tensor, with_weights: list[Tensor]) -> Tensor:
        first, a, second, b, third, c = with_weights
        h = F.softplus(given[:, :, None] @ first.transpose(1, 2) + a[:, None])
        h = F.softplus(h @ second.transpose(1, 2) + b[:, None])
        return (h @ third.transpose(1, 2) + c[:, None])[:, :, 0]

    with torch.enable_grad():
        weights = [p.expand(len(x), *p.shape) for p in net.parameters()]
        loss = (run(x, weights) - y).square().mean(dim=1).sum()
        slopes = torch.autograd.grad(loss, weights, create_graph=True)
    moved = [weight - rate * slope for weight, slope in zip(weights, slopes, strict=True)]
    return lambda given: run(given, moved)
