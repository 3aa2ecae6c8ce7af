r"""Adaptive gradient clipping (AGC): each unit's gradient against the size of its own weights.

For the weights :math:`W_i` and the gradient :math:`G_i` of unit i,

.. math:: G_i \leftarrow G_i \cdot \min\Big(1,\; \lambda\,
          \frac{\max(\lVert W_i \rVert_2,\, \epsilon)}{\lVert G_i \rVert_2}\Big)

Source: Brock, De, Smith, Simonyan 2021, "High-Performance Large-Scale Image Recognition Without
Normalization", arXiv:2102.06171, section 4. A unit is a row of a matrix and an output channel of a
convolution (the first dimension, as torch lays both out); a vector, such as a bias, and a scalar are one
unit. The floor :math:`\epsilon` (1e-3 there) keeps weights that start at zero from being frozen for ever. The
authors leave out the last linear layer.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_gradtools.arguments import number
from lightning_gradtools.distributed import Layout, local_part, summed
from lightning_gradtools.gradients.clipping import stored_in_place


@torch.no_grad()
def adaptive_clip_(parameters: Sequence[Tensor], ratio: float, min_weight_norm: float = 1e-3) -> Tensor:
    """Clip the gradients of ``parameters`` unit by unit to ``ratio`` times the norm of the unit's weights.

    Args:
        parameters: leaf tensors; those without a gradient are left out. Of a sparse gradient, which must be
            of rows, the rows that occur are clipped. ``DTensor`` needs a collective unless whole units lie on
            one rank.
        ratio: λ, the largest ratio of gradient norm to weight norm; the paper finds 0.01 for batches of 4096,
            more for smaller ones.
        min_weight_norm: ε, taken for the norm of weights where that is smaller.

    Returns:
        [] the smallest factor applied on this rank: 1 if nothing was clipped.

    Raises:
        ArgumentError: if ``ratio`` or ``min_weight_norm`` is negative or not finite.
    """
    number("ratio", ratio, at_least=0)
    number("min_weight_norm", min_weight_norm, at_least=0)
    smallest, dense = [], []
    for parameter in parameters:
        if parameter.grad is None or parameter.grad.numel() == 0:
            continue
        if parameter.grad.layout == torch.sparse_coo:
            smallest.append(_clip_rows_(parameter, ratio, min_weight_norm))
        else:
            parameter.grad = summed(parameter.grad)
            dense.append(parameter)
    gradients = [parameter.grad for parameter in dense if parameter.grad is not None]
    norms = unit_norms([parameter.detach() for parameter in dense] + gradients)
    for gradient, of_weights, of_gradient in zip(gradients, norms, norms[len(dense) :], strict=False):
        factors = _factors(ratio * of_weights.clamp(min=min_weight_norm), of_gradient)
        stored = stored_in_place(gradient)
        stored.mul_(factors.to(stored.dtype))
        smallest.append(factors)
    device = parameters[0].device if parameters else None
    least = [factors.min().to(device) for factors in smallest if factors.numel()]
    return torch.stack(least).min() if least else torch.ones((), device=device)


def unit_norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the 2-norms of the units of each tensor that this rank holds, in a shape that broadcasts against it.

    Ranks reduce once for all units that are split alike; along the first dimension of a matrix whole ones lie on one.
    """
    norms: list[Tensor] = []
    split: dict[Layout, list[int]] = {}
    for index, tensor in enumerate(tensors):
        part = local_part(tensor)
        norms.append(_norms_of_units(part.values))
        if (across := part.across(0 if tensor.ndim <= 1 else 1)) is not None:
            split.setdefault(across, []).append(index)
    for across, indices in split.items():
        squares = torch.cat([norms[index].double().square().reshape(-1) for index in indices])
        whole = across.sum(squares).sqrt().split([norms[index].numel() for index in indices])
        for index, norm in zip(indices, whole, strict=True):
            norms[index] = norm.to(norms[index].dtype).view_as(norms[index])
    return norms


def _norms_of_units(tensor: Tensor) -> Tensor:
    dims = tuple(range(1, tensor.ndim)) if tensor.ndim > 1 else None
    dtype = torch.float32 if tensor.dtype in (torch.float16, torch.bfloat16) else None
    norms: Tensor = torch.linalg.vector_norm(tensor, dim=dims, keepdim=dims is not None, dtype=dtype)
    return norms


def _clip_rows_(parameter: Tensor, ratio: float, min_weight_norm: float) -> Tensor:
    """Clip the rows that a sparse gradient of a table of rows (an embedding) has."""
    assert parameter.grad is not None
    parameter.grad = gradient = parameter.grad.coalesce()
    rows = parameter.detach()[gradient.indices()[0]]
    bound = ratio * _norms_of_units(rows).clamp(min=min_weight_norm)
    factors = _factors(bound, _norms_of_units(gradient.values()))
    gradient.values().mul_(factors)
    return factors


def _factors(bound: Tensor, norms: Tensor) -> Tensor:
    """Return min(1, bound / norm), 1 where the norm is 0."""
    return torch.where(norms > bound, bound / norms, torch.ones_like(norms))
