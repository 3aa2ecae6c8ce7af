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

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter

import torch
from torch import Tensor

from lightning_gradtools.distributed import Layout, is_distributed, local_part

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
    gradients = [parameter.grad for parameter in parameters]
    present = [gradient for gradient in gradients if gradient is not None]
    if len(present) < len(gradients):
        parameters = [
            parameter for parameter, gradient in zip(parameters, gradients, strict=True) if gradient is not None
        ]
    plain = are_plain(present)
    if plain:
        per_parameter, alike = torch.stack(_dense_norms(present, norm_type)), False
    else:
        per_parameter, alike = _tensor_norms(present, norm_type)
    return GradientNorms(parameters, per_parameter, total_norm(per_parameter, norm_type), norm_type, plain, alike)


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

    With ``DTensor`` ranks reduce once for all that are split alike.
    """
    if are_plain(tensors):
        return torch.stack(_dense_norms(tensors, norm_type, accumulate))
    return _tensor_norms(tensors, norm_type, accumulate)[0]


def _tensor_norms(
    tensors: Sequence[Tensor], norm_type: float, accumulate: torch.dtype | None = None
) -> tuple[Tensor, bool]:
    """Return the norms, and whether all of them come from a reduction over all ranks."""
    if not tensors:
        return torch.zeros(0), False

    norms: list[Tensor] = [torch.empty(0)] * len(tensors)
    dense: dict[tuple[torch.device, torch.dtype], list[tuple[int, Tensor]]] = {}
    sharded: dict[Layout, list[int]] = {}
    for index, tensor in enumerate(tensors):
        part = local_part(tensor)
        if part.layout is not None:
            sharded.setdefault(part.layout, []).append(index)
        values = stored_values(part.values)
        dense.setdefault((values.device, values.dtype), []).append((index, values))
    for members in dense.values():
        found = _dense_norms([values for _, values in members], norm_type, accumulate)
        for (index, _), norm in zip(members, found, strict=True):
            norms[index] = norm
    for layout, indices in sharded.items():
        whole = _whole_norms(torch.stack([norms[index].double() for index in indices]), norm_type, layout)
        for index, norm in zip(indices, whole.to(norms[indices[0]].dtype), strict=True):
            norms[index] = norm

    dtype = torch.float64 if any(norm.dtype == torch.float64 for norm in norms) else torch.float32
    alike = sum(map(len, sharded.values())) == len(tensors) and all(layout.spans_all_ranks for layout in sharded)
    return torch.stack([norm.to(norms[0].device, dtype) for norm in norms]), alike


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


def _whole_norms(norms: Tensor, norm_type: float, layout: Layout) -> Tensor:
    """Return the norms of whole tensors from those of this rank's shards: one collective for them all."""
    if norm_type == math.inf:
        return layout.max(norms)
    return layout.sum(norms**norm_type) ** (1 / norm_type)


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
    flags: list[Tensor] = []
    sharded: dict[Layout, list[int]] = {}
    for index, tensor in enumerate(tensors):
        part = local_part(tensor)
        if part.layout is not None:
            sharded.setdefault(part.layout, []).append(index)
        values = stored_values(part.values)
        flags.append(torch.stack([values.isnan().any(), values.isinf().any()]).float())  # [2]
    for layout, indices in sharded.items():
        for index, whole in zip(indices, layout.max(torch.stack([flags[index] for index in indices])), strict=True):
            flags[index] = whole
    found = torch.stack([flag.to(flags[0].device) for flag in flags]).tolist() if flags else []
    nan = tuple(index for index, (has_nan, _) in enumerate(found) if has_nan)
    inf = tuple(index for index, (has_nan, has_inf) in enumerate(found) if has_inf and not has_nan)
    return NonFinite(nan, inf)
