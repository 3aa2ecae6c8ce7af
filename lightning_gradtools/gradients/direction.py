"""Inner products of two lists of gradients: from them the cosine between their directions."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_gradtools.distributed import local_part, whole_sums


def inner_products(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Return Re⟨a, b⟩ of every pair as one tensor [n] on the first one's device, in float32 at least.

    The pairs may be dense, sparse or ``DTensor``, in any mix, both of a pair alike; every rank of a
    ``DTensor``'s mesh must call it, and reduces once for all pairs of a mesh that has every rank.
    """
    parts = [(local_part(a), local_part(b)) for a, b in zip(first, second, strict=True)]
    if not parts:
        return torch.zeros(0)
    here = [_inner_product(a.values, b.values) for a, b in parts]
    products = whole_sums(here, [a.layout for a, _ in parts])
    dtype = torch.float64 if any(product.dtype == torch.float64 for product in products) else torch.float32
    return torch.stack([product.to(products[0].device, dtype) for product in products])


def _inner_product(a: Tensor, b: Tensor) -> Tensor:
    if a.layout != torch.strided:
        return torch.sparse.sum(a.coalesce() * b.coalesce()).real
    if a.dtype in (torch.float16, torch.bfloat16):
        a, b = a.float(), b.float()
    return torch.vdot(a.reshape(-1), b.reshape(-1)).real
