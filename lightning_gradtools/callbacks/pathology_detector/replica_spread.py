"""How far apart the ranks' copies of the same weights are."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_gradtools.distributed import is_distributed, largest_over_ranks

# Of a weight's norm. Ranks that average all gradients hold the very same bits; but where sums are made in any order, as
# of sparse gradients on a GPU, float32 parts by some 1e-7 a step.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class ReplicaSpread:
    """Norm and sum of each of n whole weights on this rank. Ranks have not talked yet.

    Attributes:
        parameters: the weights, as they are known to others by ``id``.
        values: [2 · n] norms, then sums.
    """

    parameters: Sequence[Tensor]
    values: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, parameters: Sequence[Tensor], values: Sequence[Tensor]) -> "ReplicaSpread | None":
        """Measure ``values`` of ``parameters``; what is not whole on this rank is left out. None if nothing is left."""
        pairs = [
            (parameter, value)
            for parameter, value in zip(parameters, values, strict=True)
            if value.layout == torch.strided and value.is_floating_point() and not is_distributed(value)
        ]
        if not pairs:
            return None
        device = pairs[0][1].device
        wide = torch.float32 if device.type == "mps" else torch.float64
        norms = [torch.linalg.vector_norm(value, dtype=wide).to(device) for _, value in pairs]
        sums = [value.sum(dtype=wide).to(device) for _, value in pairs]
        return cls([parameter for parameter, _ in pairs], torch.stack([*norms, *sums]))

    def over_ranks(self) -> Tensor:
        """Return [n] the larger of the differences of norm and sum between ranks, over the norm; ranks reduce once.

        Every rank must call it, with as many weights.
        """
        largest, negative_least = largest_over_ranks(torch.cat([self.values, -self.values])).chunk(2)
        norms, sums = (largest + negative_least).chunk(2)
        scale = largest[: len(norms)].clamp(min=torch.finfo(torch.float32).tiny)
        return (torch.maximum(norms, sums) / scale).float()
