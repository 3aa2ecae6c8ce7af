r"""Norms of gradients, whatever mix of tensors they are, in one pass and without a host synchronisation.

For the gradients :math:`g_1 \dots g_n` of the parameters this gives, for p = 2 (default), 1 or ∞,

.. math:: \lVert g_i \rVert_p \quad\text{and}\quad
          \Big\lVert \big(\lVert g_1 \rVert_p, \dots, \lVert g_n \rVert_p\big) \Big\rVert_p

where the second is the norm of all gradients taken as one vector, called the *total* norm.

Accuracy. Half precision is accumulated in float32, everything else in its own precision.
``torch.linalg.vector_norm`` of a long float32 tensor on a CPU loses digits (4e-4 relative at ten million
elements), because it adds into a few running sums; here long tensors are reduced by rows first, as CUDA does
anyway, which keeps 1e-6 (docs/gradients.md). Squares below float32's range still vanish: an element under 1e-22
counts as 0.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

import torch
from torch import Tensor

from lightning_gradtools.distributed import (
    Layout,
    has_pending_sum,
    is_distributed,
    local_part,
    summed,
    whole_maxima,
    whole_sums,
)

# Elements that a CPU adds up in one go, and the length of the rows it reduces first where there are more, by
# p. The relative error then stays under 1e-6 on normally distributed elements of any number (docs/gradients.md).
# Shorter would be more expensive: a tensor of 4096 elements takes three times as long by rows as in one go.
_ONE_GO = {1.0: 256, 2.0: 8192}
_ROW_LENGTH = {1.0: 256, 2.0: 512}

_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class GradientNorms:
    """The norms of one step's gradients, as tensors on the gradients' (first) device.

    Attributes:
        parameters: the n parameters that have a gradient, in the order they were given.
        per_parameter: [n] norm of each one's gradient, in the unit of the loss per unit of the parameter.
        total: [] norm of all of them taken as one vector.
        norm_type: the p of the norm: 1, 2 or infinity.
        plain: whether all gradients are dense tensors of one dtype on one device, as they mostly are.
        alike: whether every rank is sure to hold the very same numbers, all of them from reductions over all ranks.
    """

    parameters: Sequence[Tensor]
    per_parameter: Tensor
    total: Tensor
    norm_type: float
    plain: bool = False
    alike: bool = False

    def gradients(self) -> list[Tensor]:
        """Return the n gradients. They are not held here, so that ``zero_grad`` can free their memory."""
        return [grad for parameter in self.parameters if (grad := parameter.grad) is not None]


def gradient_norms(parameters: Sequence[Tensor], norm_type: float = 2.0) -> GradientNorms:
    """Return the norms of the gradients of ``parameters``; those without a gradient are left out.

    Args:
        parameters: leaf tensors. Their gradients may be dense, sparse (coalesced or not), ``DTensor`` (FSDP2,
            tensor parallel), complex, empty, of any dtypes and on any devices, in any mix.
        norm_type: 1, 2 or ``math.inf``.

    With ``DTensor`` gradients this communicates (see ``distributed.py``), so every rank of their mesh must
    call it.
    """
    return local_gradient_norms(parameters, norm_type).whole()


@dataclass(frozen=True)
class LocalGradientNorms:
    """The norms of what this rank holds of one step's gradients. Ranks have not talked yet.

    Attributes:
        parameters: the n parameters that have a gradient, in the order they were given.
        norms: of their gradients.
    """

    parameters: Sequence[Tensor]
    norms: "LocalNorms"

    def whole(self) -> GradientNorms:
        """Return the norms of the gradients. Every rank of their meshes must call it."""
        per_parameter, norm_type = self.norms.whole(), self.norms.norm_type
        total = total_norm(per_parameter, norm_type)
        return GradientNorms(self.parameters, per_parameter, total, norm_type, self.norms.plain, self.norms.alike)


def local_gradient_norms(parameters: Sequence[Tensor], norm_type: float = 2.0) -> LocalGradientNorms:
    """Return this rank's share of :func:`gradient_norms`, for which no rank waits for another."""
    gradients = [parameter.grad for parameter in parameters]
    present = [gradient for gradient in gradients if gradient is not None]
    if len(present) < len(gradients):
        parameters = [
            parameter for parameter, gradient in zip(parameters, gradients, strict=True) if gradient is not None
        ]
    return LocalGradientNorms(parameters, local_norms(present, norm_type))


_kind = attrgetter("__class__", "layout", "dtype", "device")


def are_plain(tensors: Sequence[Tensor]) -> bool:
    """Say whether all of ``tensors`` are dense, not ``DTensor``, of one dtype and on one device; False of none."""
    kinds = set(map(_kind, tensors))
    return len(kinds) == 1 and tensors[0].layout == torch.strided and not is_distributed(tensors[0])


def total_norm(norms: Tensor, norm_type: float = 2.0) -> Tensor:
    """Return the norm of a vector from the norms of its parts; 0 where there are no parts.

    Args:
        norms: [n] norms of the parts.
        norm_type: 1, 2 or ``math.inf``.
    """
    return torch.linalg.vector_norm(norms, norm_type) if len(norms) else norms.new_zeros(())


def tensor_norms(tensors: Sequence[Tensor], norm_type: float = 2.0, accumulate: torch.dtype | None = None) -> Tensor:
    """Return the norm of every tensor as one tensor [n], on the first one's device.

    Args:
        tensors: any mix of dense, sparse and ``DTensor``, dtypes and devices.
        norm_type: 1, 2 or ``math.inf``.
        accumulate: the dtype to add up in; by default float32 for half precision, else the tensor's own.

    With ``DTensor`` ranks reduce once for all that lie on every rank.
    """
    return local_norms(tensors, norm_type, accumulate).whole()


@dataclass(frozen=True)
class LocalNorms:
    """The norms of what this rank holds of n tensors.

    Attributes:
        here: [] each.
        layouts: how each tensor is split; None if it is whole on this rank.
        norm_type: 1, 2 or ``math.inf``.
        plain: whether all tensors are dense, of one dtype and on one device, and not distributed.
        pending: copies of tensors, by position, that are sums which ranks have yet to carry out.
        accumulate: the dtype to add these up in.
    """

    here: Sequence[Tensor]
    layouts: Sequence[Layout | None]
    norm_type: float
    plain: bool = False
    pending: Mapping[int, Tensor] = field(default_factory=dict)
    accumulate: torch.dtype | None = None

    @property
    def needs_ranks(self) -> bool:
        """Whether :meth:`whole` communicates."""
        return bool(self.pending) or any(layout is not None for layout in self.layouts)

    @property
    def alike(self) -> bool:
        """Whether every rank is sure to get the very same numbers, all of them from one reduction over all ranks."""
        return bool(self.here) and all(layout is not None and layout.lies_on_all_ranks for layout in self.layouts)

    @classmethod
    def joined(cls, parts: Sequence["LocalNorms"]) -> "LocalNorms":
        """Return the norms of several lists of tensors as those of one, so that ranks talk once for all."""
        starts = [0, *itertools.accumulate(len(part.here) for part in parts)]
        return cls(
            here=[norm for part in parts for norm in part.here],
            layouts=[layout for part in parts for layout in part.layouts],
            norm_type=parts[0].norm_type,
            pending={
                start + index: tensor
                for part, start in zip(parts, starts, strict=False)
                for index, tensor in part.pending.items()
            },
            accumulate=parts[0].accumulate,
        )

    def whole(self) -> Tensor:
        """Return [n] the norms of the tensors, on the first one's device. Every rank of their meshes must call it."""
        if not self.here:
            return torch.zeros(0)
        if self.plain:
            return torch.stack(list(self.here))
        norms, layouts = list(self.here), list(self.layouts)
        for index, tensor in self.pending.items():
            carried_out = local_norms([summed(tensor)], self.norm_type, self.accumulate)
            (norms[index],), (layouts[index],) = carried_out.here, carried_out.layouts
        if self.norm_type == math.inf:
            found = whole_maxima(norms, layouts)
        else:
            # in float64, as the square of a norm may leave the range of float32
            powers = [
                norm if layout is None else norm.double() ** self.norm_type
                for norm, layout in zip(norms, layouts, strict=True)
            ]
            sums = whole_sums(powers, layouts)
            found = [
                sum_ if layout is None else (sum_ ** (1 / self.norm_type)).to(norm.dtype)
                for sum_, norm, layout in zip(sums, norms, layouts, strict=True)
            ]
        dtype = torch.float64 if any(norm.dtype == torch.float64 for norm in found) else torch.float32
        return torch.stack([norm.to(found[0].device, dtype) for norm in found])


def local_norms(tensors: Sequence[Tensor], norm_type: float, accumulate: torch.dtype | None = None) -> LocalNorms:
    """Return the norms of what this rank holds of ``tensors``; arguments are those of :func:`tensor_norms`."""
    if are_plain(tensors):
        here = _dense_norms(tensors, norm_type, accumulate)
        return LocalNorms(here, [None] * len(here), norm_type, plain=True)
    norms: list[Tensor] = [torch.empty(0)] * len(tensors)
    layouts: list[Layout | None] = [None] * len(tensors)
    pending: dict[int, Tensor] = {}
    dense: dict[tuple[torch.device, torch.dtype], list[tuple[int, Tensor]]] = {}
    for index, tensor in enumerate(tensors):
        if has_pending_sum(tensor):
            pending[index], norms[index] = tensor.detach().clone(), torch.zeros((), device=tensor.device)
            continue
        part = local_part(tensor)
        layouts[index] = part.layout
        values = stored_values(part.values)
        dense.setdefault((values.device, values.dtype), []).append((index, values))
    for members in dense.values():
        found = _dense_norms([values for _, values in members], norm_type, accumulate)
        for (index, _), norm in zip(members, found, strict=True):
            norms[index] = norm
    return LocalNorms(norms, layouts, norm_type, pending=pending, accumulate=accumulate)


def stored_values(tensor: Tensor) -> Tensor:
    """Return the stored elements: all of a dense tensor; of a sparse one, with duplicates added up."""
    if tensor.layout == torch.strided:
        return tensor
    if tensor.layout == torch.sparse_coo:
        return tensor.coalesce().values()
    return tensor.values()


def _dense_norms(tensors: Sequence[Tensor], norm_type: float, accumulate: torch.dtype | None = None) -> list[Tensor]:
    """Return the norm of each of ``tensors``, which share one device and dtype, as 0-d tensors."""
    if norm_type == math.inf:
        return [_max_norm(tensor) for tensor in tensors]
    if accumulate is None and tensors[0].dtype in _HALF:
        accumulate = torch.float32
    if accumulate is not None and tensors[0].is_complex():
        accumulate = accumulate.to_complex()
    one_go = _ONE_GO[norm_type] if tensors[0].device.type == "cpu" else math.inf
    if max(map(Tensor.numel, tensors)) <= one_go:
        return list(torch._foreach_norm(list(tensors), norm_type, accumulate))
    short = [tensor for tensor in tensors if tensor.numel() <= one_go]
    short_norms = iter(torch._foreach_norm(short, norm_type, accumulate) if short else ())
    return [
        next(short_norms) if tensor.numel() <= one_go else _norm_by_rows(tensor, norm_type, accumulate)
        for tensor in tensors
    ]


def _norm_by_rows(tensor: Tensor, norm_type: float, accumulate: torch.dtype | None) -> Tensor:
    flat = tensor.reshape(-1)
    row = _ROW_LENGTH[norm_type]
    whole = flat.numel() // row * row
    rows = torch.linalg.vector_norm(flat[:whole].view(-1, row), norm_type, dim=1, dtype=accumulate)
    rest = torch.linalg.vector_norm(flat[whole:], norm_type, dtype=accumulate)
    parts = torch.cat([rows, rest.unsqueeze(0)])
    if parts.numel() > row:
        return _norm_by_rows(parts, norm_type, None)
    whole_norm: Tensor = torch.linalg.vector_norm(parts, norm_type)
    return whole_norm


def _max_norm(tensor: Tensor) -> Tensor:
    """Return max|x|. ``aminmax`` reads once: twelve times as fast as ``_foreach_norm(inf)`` on a CPU."""
    dtype = torch.float32 if tensor.dtype in _HALF else None
    if tensor.numel() == 0:
        return torch.zeros((), dtype=dtype or tensor.real.dtype, device=tensor.device)
    if tensor.is_complex():
        return tensor.abs().amax()
    smallest, largest = torch.aminmax(tensor)
    return torch.maximum(-smallest, largest).to(dtype or tensor.dtype)


@dataclass(frozen=True)
class NonFinite:
    """Why a total norm is not finite.

    Attributes:
        nan: indices of the tensors that hold a NaN.
        inf: indices of the tensors that hold an infinity and no NaN.
    """

    nan: tuple[int, ...]
    inf: tuple[int, ...]

    @property
    def overflow(self) -> bool:
        """True where every element is finite: only the sum of their powers left the dtype's range."""
        return not self.nan and not self.inf


def find_nonfinite(tensors: Iterable[Tensor]) -> NonFinite:
    """Say which of ``tensors`` hold NaN or infinity.

    Reads every element and the host waits for it: for the rare step whose total norm is not finite (a finite
    total proves that every element is). With ``DTensor`` every rank of the mesh must call it, and all get one
    answer.
    """
    parts = [local_part(tensor) for tensor in tensors]
    flags = []
    for part in parts:
        values = stored_values(part.values)
        flags.append(torch.stack([values.isnan().any(), values.isinf().any()]).float())  # [2]
    flags = whole_maxima(flags, [part.layout for part in parts])
    found = torch.stack([flag.to(flags[0].device) for flag in flags]).tolist() if flags else []
    nan = tuple(index for index, (has_nan, _) in enumerate(found) if has_nan)
    inf = tuple(index for index, (has_nan, has_inf) in enumerate(found) if has_inf and not has_nan)
    return NonFinite(nan, inf)
