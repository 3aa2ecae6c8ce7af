"""Layers, losses and optimizers with Keras's defaults, which the programs of the record rely on."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer, RMSprop

EPSILON = 1e-7  # of optimizers and of clipped probabilities
Optimize = Callable[[Iterable[Any]], Optimizer]
INITIALIZERS: dict[str, Callable[[Tensor], Any]] = {
    "glorot_uniform": nn.init.xavier_uniform_,
    "he_uniform": partial(nn.init.kaiming_uniform_, nonlinearity="relu"),
    "he_normal": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
    "uniform": partial(nn.init.uniform_, a=-0.05, b=0.05),
    "normal": partial(nn.init.normal_, std=0.05),
    "standard_normal": nn.init.normal_,
}


def initialized(layer: nn.Module, initializer: str = "glorot_uniform", bias: float = 0.0) -> nn.Module:
    """Return the layer with weights of Keras's initializer, and a constant bias."""
    INITIALIZERS[initializer](layer.weight)  # type: ignore[arg-type]
    nn.init.constant_(layer.bias, bias)  # type: ignore[arg-type]
    return layer


def dense(inputs: int, outputs: int, initializer: str = "glorot_uniform", bias: float = 0.0) -> nn.Module:
    return initialized(nn.Linear(inputs, outputs), initializer, bias)


def convolution(inputs: int, outputs: int, size: int, *, initializer: str = "glorot_uniform", **more: Any) -> nn.Module:
    bias = more.pop("bias_value", 0.0)
    return initialized(nn.Conv2d(inputs, outputs, size, **more), initializer, bias)


def network(
    sizes: Sequence[int],
    hidden: Callable[[], nn.Module] | Sequence[Callable[[], nn.Module]],
    last: Callable[[], nn.Module] | None = None,
    *,
    initializer: str | Sequence[str] = "glorot_uniform",
    dropout: float = 0.0,
    first: Sequence[Callable[[], nn.Module]] = (),
) -> Callable[[], nn.Module]:
    """Return what makes a chain of dense layers.

    Args:
        sizes: of the input and of each layer.
        hidden: the activation of all layers but the last, or of each.
        last: the activation of the last; None for none.
        initializer: of all layers, or of each.
        dropout: after each activation but the last.
        first: layers that come before.
    """
    depth = len(sizes) - 1
    kinds = list(hidden) if isinstance(hidden, Sequence) else [hidden] * (depth - 1)
    names = [initializer] * depth if isinstance(initializer, str) else list(initializer)

    def build() -> nn.Module:
        layers = [make() for make in first]
        for index in range(depth):
            layers.append(dense(sizes[index], sizes[index + 1], names[index]))
            if index < depth - 1:
                layers += [kinds[index](), *([nn.Dropout(dropout)] if dropout else [])]
        return nn.Sequential(*layers, *([last()] if last else []))

    return build


softmax = partial(nn.Softmax, dim=1)


class Exponential(nn.Module):
    """exp, elementwise."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.exp()


class ClippedBinaryCrossEntropy(nn.Module):
    """Binary cross-entropy of outputs that are no probabilities, which Keras clips to (0, 1) without a word."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy(outputs.clamp(EPSILON, 1 - EPSILON), targets)


def sgd(rate: float = 0.01, momentum: float = 0.0) -> Optimize:
    return partial(SGD, lr=rate, momentum=momentum, nesterov=momentum > 0)


def adam(rate: float = 1e-3, **more: Any) -> Optimize:
    return partial(Adam, lr=rate, eps=EPSILON, **more)


def rmsprop(rate: float = 1e-3) -> Optimize:
    return partial(RMSprop, lr=rate, alpha=0.9, eps=EPSILON)
