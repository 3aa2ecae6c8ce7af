"""Normalisation of feature vectors by name."""

from collections.abc import Callable

from torch import nn

from lightning_gradtools.arguments import one_of

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda _: nn.Identity(),
    "batch": nn.BatchNorm1d,
    "layer": nn.LayerNorm,
}


def make_norm(name: str, width: int) -> nn.Module:
    """Return a new module that normalises inputs of shape (batch, width).

    Raises:
        ArgumentError: if there is no such name.
    """
    return NORMS[one_of("norm", name, NORMS)](width)
