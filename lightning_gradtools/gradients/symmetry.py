r"""Whether all units of a weight are one and the same, gradient included, and so stay that for ever.

With the entries :math:`w_{ij}` of a weight's units i (its first dimension) the spread is

.. math:: \max_j \big(\max_i w_{ij} - \min_i w_{ij}\big)

and units are taken to be the same where it is at most 1e-5 of the largest absolute value: rounding in float32, which
sums of other orders have, stays below that.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_gradtools.distributed import Layout, local_part, whole_maxima

_ROUNDING = 1e-5


@dataclass(frozen=True)
class LocalExtremes:
    """The largest and smallest entries of what this rank holds of a tensor's units. Ranks have not talked yet.

    Attributes:
        columns: [2 · m] of each of the m columns the maximum, and that of its negative.
        along: how the units are split; None if this rank has all of those whose columns it has.
        layout: how the tensor is split; None if it is whole on this rank.
    """

    columns: Tensor
    along: Layout | None
    layout: Layout | None


def local_extremes(tensor: Tensor) -> LocalExtremes:
    """Return this rank's extremes of ``tensor``, of at least two dimensions, dense and without a pending sum."""
    part = local_part(tensor)
    rows = part.values.detach().flatten(1)
    none = rows.new_full((2 * rows.shape[1],), -torch.inf)  # where there are more ranks than units
    columns = torch.cat([rows.amax(0), -rows.amin(0)]) if len(rows) else none
    return LocalExtremes(columns, part.along_first, part.layout)


def units_are_one(tensors: Sequence[LocalExtremes]) -> list[Tensor]:
    """Return for each tensor, as [] bool, whether its units are the same. Every rank of their meshes must call it."""
    by_units = [each.layout is not None and each.along == each.layout for each in tensors]
    layouts = [each.layout for each in tensors]
    columns = whole_maxima(
        [each.columns for each in tensors],
        [layout if alone else None for layout, alone in zip(layouts, by_units, strict=True)],
    )
    for index, each in enumerate(tensors):
        if each.along is not None and not by_units[index]:
            columns[index] = each.along.max(columns[index].clone())
    both = whole_maxima(
        [torch.stack([_spread(each), _largest(each)]) for each in columns],
        [None if alone else layout for layout, alone in zip(layouts, by_units, strict=True)],
    )
    return [spread <= _ROUNDING * size for spread, size in both]


def _spread(columns: Tensor) -> Tensor:
    above, below = columns.chunk(2)
    return (above + below).amax() if columns.numel() else columns.new_zeros(())


def _largest(columns: Tensor) -> Tensor:
    return columns.amax() if columns.numel() else columns.new_zeros(())
