"""Histogram of the elements of a tensor."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_gradtools.distributed import whole
from lightning_gradtools.gradients.norms import stored_values


@dataclass(frozen=True)
class Histogram:
    """Counts of the finite elements of a tensor in bins of equal width.

    Attributes:
        edges: [bins + 1] from the smallest element to the largest.
        counts: [bins].
        total: their sum.
        squares: sum of their squares.
    """

    edges: list[float]
    counts: list[float]
    total: float
    squares: float


def histogram(tensor: Tensor, bins: int = 64) -> Histogram | None:
    """Return the histogram of the finite elements of ``tensor``, or None if it has none.

    Of a sparse tensor the stored elements are counted, of a complex one the magnitudes, of a ``DTensor`` all
    shards (every rank of its mesh must call it). The host waits for the device.
    """
    values = stored_values(whole(tensor)).detach()
    values = (values.abs() if values.is_complex() else values).float().reshape(-1)
    values = values[values.isfinite()]
    if not values.numel():
        return None
    low, high = (float(end) for end in torch.aminmax(values))
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts = torch.histc(values, bins, low, high)
    edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
    return Histogram(edges.tolist(), counts.tolist(), float(values.sum()), float(values.square().sum()))
