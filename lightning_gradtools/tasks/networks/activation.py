"""Elementwise nonlinearities by name."""

from collections.abc import Callable

from torch import nn

from lightning_gradtools.arguments import one_of

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}


def make_activation(name: str) -> nn.Module:
    """Return a new module of the named nonlinearity: a module, not a function, so that hooks can find it.

    Raises:
        ArgumentError: if there is no such name.
    """
    return ACTIVATIONS[one_of("activation", name, ACTIVATIONS)]()
