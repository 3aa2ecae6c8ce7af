"""Inner products of two lists of gradients: from them the cosine between their directions."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_gradtools.distributed import Layout, local_part


def inner_products(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Return Re⟨a, b⟩ of every pair as one tensor [n] on the first one's device, in float32 at least.

    The pairs may be dense, sparse or ``DTensor``, in any mix, both of a pair alike; every rank of a
    ``DTensor``'s mesh must call it, and reduces once for all pairs that are split alike.
    """
    products: list[Tensor] = []
    sharded: dict[Layout, list[int]] = {}
    for index, (a, b) in enumerate(zip(first, second, strict=True)):
        part = local_part(a)
        if part.layout is not None:
            sharded.setdefault(part.layout, []).append(index)
        products.append(_inner_product(part.values, local_part(b).values))
    if not products:
        return torch.zeros(0)
    for layout, indices in sharded.items():
        whole = layout.sum(torch.stack([products[index].double() for index in indices]))
        for index, product in zip(indices, whole.to(products[indices[0]].dtype), strict=True):
            products[index] = product
    dtype = torch.float64 if any(product.dtype == torch.float64 for product in products) else torch.float32
    return torch.stack([product.to(products[0].device, dtype) for product in products])


def _inner_product(a: Tensor, b: Tensor) -> Tensor:
    if a.layout != torch.strided:
        return torch.sparse.sum(a.coalesce() * b.coalesce()).real
    if a.dtype in (torch.float16, torch.bfloat16):
        a, b = a.float(), b.float()
    return torch.vdot(a.reshape(-1), b.reshape(-1)).real
