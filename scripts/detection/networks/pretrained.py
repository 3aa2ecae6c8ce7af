"""Networks that were trained before the run began, and what is trained of them then."""

import copy
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from detection import data
from detection.networks.attention import Encoder
from detection.networks.dense import dense


def pretrained(net: nn.Module, x: Tensor, y: Tensor, steps: int = 120, lr: float = 5e-3) -> nn.Module:
    """Return the network after full-batch steps of Adam on classes."""
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    return net


def half_the_digits() -> tuple[Tensor, Tensor]:
    """The images that the runs do not train on for a start: those of the digits 0 to 4."""
    given = data.digits()
    kept = given.targets < 5
    return given.inputs[kept], given.targets[kept]


def of_half_the_digits(activation: Callable[[], nn.Module] = nn.SiLU) -> nn.Module:
    return pretrained(dense([64, 64, 48, 10], activation), *half_the_digits())


def probe() -> nn.Module:
    """Frozen features of half the digits, and a new linear output."""
    net = of_half_the_digits().requires_grad_(False)
    net[-1] = nn.Linear(48, 10)  # type: ignore[operator]
    return net


class LowRankChange(nn.Module):
    """A weight plus a change of low rank, whose second factor starts at zero (Hu et al., arXiv:2106.09685)."""

    def __init__(self, weight: Tensor, rank: int, alpha: float = 8.0) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, weight.shape[1]) / math.sqrt(weight.shape[1]))
        self.up = nn.Parameter(torch.zeros(weight.shape[0], rank))
        self.factor = alpha / rank

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.factor * self.up @ self.down


def with_low_rank_changes(net: nn.Module, rank: int) -> nn.Module:
    """Return the network, frozen, with a trained change of each matrix."""
    net.requires_grad_(False)
    for layer in list(net.modules()):
        if isinstance(layer, nn.Linear):
            register_parametrization(layer, "weight", LowRankChange(layer.weight, rank))
    return net


def biases_alone(net: nn.Module) -> nn.Module:
    """Return the network with all but its biases frozen."""
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name.endswith("bias"))
    return net


class Bottlenecks(nn.Module):
    """A frozen network with a small branch after each hidden layer, which adds nothing at first."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.frozen = net.requires_grad_(False)
        self.branches = nn.ModuleList(dense([width, 8, width], nn.GELU) for width in (64, 48))
        for branch in self.branches:
            nn.init.zeros_(branch[-1].weight)  # type: ignore[index]
        self.output = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.frozen.get_submodule("0"), self.frozen.get_submodule("2")
        h = F.silu(first(x))
        h = h + self.branches[0](h)
        h = F.silu(second(h))
        y: Tensor = self.output(h + self.branches[1](h))
        return y


class Prompted(nn.Module):
    """A frozen transformer that reads trained vectors before the rows of a digit (Lester et al., arXiv:2104.08691)."""

    def __init__(self, prompts: int = 4) -> None:
        super().__init__()
        inputs, targets = half_the_digits()
        self.frozen = pretrained(Encoder(2), inputs.view(-1, 8, 8), targets, steps=40).requires_grad_(False)
        self.prompts = nn.Parameter(0.3 * torch.randn(prompts, 24))
        self.output = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.frozen.embedding(x) + self.frozen.position  # type: ignore[operator]
        h = torch.cat([self.prompts.expand(len(x), -1, -1), h], dim=1)
        for block in self.frozen.blocks:  # type: ignore[union-attr]
            h = block(h)
        y: Tensor = self.output(h.mean(dim=1))
        return y


class Student(nn.Module):
    """A network and a frozen teacher; the output is the logits of both."""

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher.requires_grad_(False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.student(x), self.teacher(x)


def taught_by_digits() -> nn.Module:
    """A small student of a wide network that knows all digits."""
    given = data.digits()
    return Student(dense([64, 24, 10], nn.GELU), pretrained(dense([64, 128, 10]), given.inputs, given.targets))


def with_average(net: nn.Module) -> nn.Module:
    """Return a network and a copy that is to become the average of its weights."""
    return nn.ModuleDict({"net": net, "mean": copy.deepcopy(net).requires_grad_(False)})
