"""Fully connected networks."""

import copy
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection.networks.weights import constant, initialized

DIGITS = [64, 64, 64, 10]


def dense(
    sizes: Sequence[int], activation: Callable[[], nn.Module] = nn.ReLU, between: type | None = None
) -> nn.Module:
    """Return linear layers with an activation after all but the last, and a norm before it if one is given."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), *([between(after)] if between else []), activation()]
    return nn.Sequential(*layers[: -2 if between else -1])


def layers(features: int, width: int, depth: int, outputs: int, activation: Any) -> nn.Module:
    return dense([features] + [width] * depth + [outputs], activation)


class FunctionalMLP(nn.Module):
    """A multilayer perceptron whose ReLU is a function: there is no module to hook."""

    def __init__(self, sizes: Sequence[int], relu: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(sizes[:-1]))
        self.output = nn.Linear(sizes[-2], sizes[-1])
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.hidden:
            x = self.relu(layer(x))
        y: Tensor = self.output(x)
        return y


class TwoBranches(nn.Module):
    """Two hidden layers side by side. ``cut`` is what happens to the second one's output."""

    def __init__(self, cut: Callable[[Tensor], Tensor] = lambda h: h) -> None:
        super().__init__()
        self.left, self.right = dense([64, 32, 32]), dense([64, 32, 32])
        self.output = nn.Linear(64, 10)
        self.cut = cut

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.output(torch.cat([self.left(x), self.cut(self.right(x))], dim=1).relu())
        return y


class Forgotten(nn.Module):
    """A network with a layer that its forward does not call, or calls under ``no_grad``."""

    def __init__(self, no_grad: bool) -> None:
        super().__init__()
        self.encoder = dense([64, 48, 48])
        self.auxiliary = nn.Linear(48, 10)
        self.head = dense([48, 32, 10])
        self.no_grad = no_grad

    def forward(self, x: Tensor) -> Tensor:
        if self.no_grad:
            with torch.no_grad():
                h = self.encoder(x)
            return self.head(h.relu()) + self.auxiliary(h)  # type: ignore[no-any-return]
        y: Tensor = self.head(self.encoder(x).relu())
        return y


class FrozenBackbone(nn.Module):
    """Random features that are not trained, and a head that is."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = dense([64, 128, 128])
        self.backbone.requires_grad_(False)
        self.head = dense([128, 32, 10])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.backbone(x).relu())
        return y


class WithFrozenCopy(nn.Module):
    """A network that keeps a copy of its first weights, as averages of weights do; no forward calls it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.trained = net
        self.kept = copy.deepcopy(net).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.trained(x)
        return y


class LowRank(nn.Module):
    """A frozen random layer with a trained correction of low rank: its second factor starts at zero, or both do."""

    def __init__(self, both_zero: bool = False) -> None:
        super().__init__()
        self.base = nn.Linear(64, 96).requires_grad_(False)
        self.down, self.up = nn.Linear(64, 4, bias=False), nn.Linear(4, 96, bias=False)
        initialized(self.up, constant(0.0))
        if both_zero:
            initialized(self.down, constant(0.0))
        self.output = nn.Linear(96, 10)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.output(F.relu(self.base(x) + self.up(self.down(x))))
        return y


class Maxout(nn.Module):
    """The largest of three linear functions for each hidden unit (Goodfellow et al., arXiv:1302.4389)."""

    def __init__(self, features: int, outputs: int, width: int = 12) -> None:
        super().__init__()
        self.hidden, self.output = nn.Linear(features, 3 * width), nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.output(self.hidden(x).unflatten(1, (-1, 3)).amax(dim=2))
        return y


class Experts(nn.Module):
    """Four networks of which a gate weighs the outputs, or takes one: then the gate has no gradient."""

    def __init__(self, features: int, classes: int, hard: bool = False) -> None:
        super().__init__()
        self.gate = nn.Linear(features, 4)
        self.experts = nn.ModuleList(dense([features, 16, classes]) for _ in range(4))
        self.hard = hard

    def forward(self, x: Tensor) -> Tensor:
        weights = self.gate(x)
        weights = F.one_hot(weights.argmax(dim=1), 4).to(x.dtype) if self.hard else weights.softmax(dim=1)
        outputs = torch.stack([expert(x) for expert in self.experts], dim=1)
        return (weights[:, :, None] * outputs).sum(dim=1)


class Domains(nn.Module):
    """A trunk, and an output for each domain; many batches have no sample of the rare one."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = dense([10, 32, 24], nn.SiLU)
        self.heads = nn.ModuleList(nn.Linear(24, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        h, domain = F.silu(self.trunk(x[:, :10])), x[:, 10]
        y = h.new_zeros(len(h), 1)
        for index, head in enumerate(self.heads):
            where = (domain == index).nonzero()[:, 0]
            if len(where):
                y = y.index_put((where,), head(h[where]).to(y.dtype))
        return y


class SideNetwork(nn.Module):
    """A network, and another one that is added to its hidden layer through a layer of zeros."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.main = nn.Sequential(nn.Linear(features, 24), nn.Tanh())
        self.side = dense([features, 32, 24], nn.Tanh)
        self.join = nn.Linear(24, 24)
        self.output = nn.Linear(24, outputs)
        nn.init.zeros_(self.join.weight)
        nn.init.zeros_(self.join.bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.output((self.main(x) + self.join(self.side(x).tanh())).tanh())
        return y


class CosineLogits(nn.Module):
    """The cosine of features and class vectors, times 12."""

    def __init__(self) -> None:
        super().__init__()
        self.features = dense([64, 48, 24], nn.SiLU)
        self.classes = nn.Parameter(torch.randn(10, 24))

    def forward(self, x: Tensor) -> Tensor:
        return 12 * F.normalize(self.features(x), dim=1) @ F.normalize(self.classes, dim=1).t()
