"""How the weights of a network start."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


@torch.no_grad()
def initialized(net: nn.Module, weights: Callable[[Tensor], object], biases: float | None = 0.0) -> nn.Module:
    """Return the network with ``weights`` applied to every matrix and kernel, and its biases set."""
    for layer in net.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            weights(layer.weight)
            if layer.bias is not None and biases is not None:
                layer.bias.fill_(biases)
    return net


def he(scale: float = 1.0) -> Callable[[Tensor], object]:
    """Return He's initialisation times ``scale``."""
    return lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu").mul_(scale)


def xavier(scale: float = 1.0) -> Callable[[Tensor], object]:
    """Return Glorot's initialisation times ``scale``."""
    return lambda weight: nn.init.xavier_normal_(weight).mul_(scale)


def constant(value: float) -> Callable[[Tensor], object]:
    """Return the initialisation of every weight with one value."""
    return lambda weight: weight.fill_(value)


def orthogonal(gain: float) -> Callable[[Tensor], Tensor]:
    return lambda weight: nn.init.orthogonal_(weight, gain)


def positive(weight: Tensor) -> Tensor:
    """Weights between 0 and 1."""
    return nn.init.uniform_(weight)


def biased(net: nn.Module, *biases: tuple[str, float]) -> nn.Module:
    """Return the network with the biases of the layers at some paths set."""
    with torch.no_grad():
        for path, bias in biases:
            net.get_submodule(path).bias.fill_(bias)  # type: ignore[operator]
    return net


def scaled_layer(net: nn.Module, path: str, factor: float) -> nn.Module:
    """Return the network with the weights of one layer multiplied."""
    with torch.no_grad():
        net.get_submodule(path).weight.mul_(factor)  # type: ignore[operator]
    return net


def zero_output(net: nn.Module) -> nn.Module:
    initialized(net[-1], constant(0.0))  # type: ignore[index]
    return net


def zero_branches(net: nn.Module) -> nn.Module:
    """Return the network with the last layer of each residual branch at zero."""
    for block in net.blocks:  # type: ignore[union-attr]
        parts = (block.mix, block.dense[-1]) if hasattr(block, "mix") else (block[-1],)
        for part in parts:
            nn.init.zeros_(part.weight)
            nn.init.zeros_(part.bias)
    return net
