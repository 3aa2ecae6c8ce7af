"""Vectors with one entry per parameter, kept flat and, where the parameters are, sharded."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.distributed import Layout, is_distributed, local_part, whole_sums


class ParameterSpace:
    """The space that gradients of ``parameters`` live in.

    A vector is one flat tensor (n,) of this rank's entries: for sharded parameters (``DTensor``) those of its
    shards. Only inner products know that there are other ranks.

    Args:
        parameters: frozen ones are left out; one that appears twice counts once.

    Raises:
        ArgumentError: if no parameter requires a gradient, or one is not a real floating-point tensor.

    Attributes:
        parameters: those that span the space.
        numel: entries on this rank, n.
        dimension: entries on all ranks.
        dtype: of the vectors: float64 if any parameter is, else float32.
        device: of the vectors: that of the first parameter.
        sharded: whether any parameter is a ``DTensor``.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.parameters = list({id(p): p for p in parameters if p.requires_grad}.values())
        if not self.parameters:
            raise ArgumentError("params: none requires a gradient")
        for parameter in self.parameters:
            if not parameter.is_floating_point():
                raise ArgumentError(f"params: one has dtype {parameter.dtype}: must be real floating-point")
        parts = [local_part(parameter) for parameter in self.parameters]
        local = [part.values for part in parts]
        self._sizes = [shard.numel() for shard in local]
        self._shapes = [shard.shape for shard in local]
        self.numel = sum(self._sizes)
        self.dimension = sum(parameter.numel() for parameter in self.parameters)
        self.dtype = torch.float64 if any(p.dtype == torch.float64 for p in self.parameters) else torch.float32
        self.device = local[0].device
        self.sharded = any(map(is_distributed, self.parameters))
        # one kind of parameter, as most networks have, needs no conversion for each
        self._uniform = not self.sharded and all(
            p.dtype == self.dtype and p.device == self.device for p in self.parameters
        )
        # parameters next to each other that are split alike are one slice
        self._segments: list[tuple[slice, Layout | None, int]] = []
        start = 0
        for part, size in zip(parts, self._sizes, strict=True):
            begin = start
            if self._segments and self._segments[-1][1] == part.layout:
                begin = self._segments.pop()[0].start
            start += size
            self._segments.append((slice(begin, start), part.layout, part.place))

    def flatten(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return tensors shaped as the parameters, such as gradients, sparse or dense, as one vector (n,)."""
        if self._uniform:
            return torch.cat([dense(tensor).reshape(-1) for tensor in tensors]).detach().to(self.device, self.dtype)
        parts = [
            dense(local_part(tensor).values).detach().reshape(-1).to(self.device, self.dtype) for tensor in tensors
        ]
        return torch.cat(parts)

    def unflatten(self, vector: Tensor) -> list[Tensor]:
        """Return a vector (n,) as tensors of the shape, dtype and device of the parameters' local parts."""
        pieces = vector.split(self._sizes)
        if self._uniform:
            return [piece.view(shape) for piece, shape in zip(pieces, self._shapes, strict=True)]
        return [
            piece.view(shape).to(parameter.device, parameter.dtype)
            for piece, shape, parameter in zip(pieces, self._shapes, self.parameters, strict=True)
        ]

    def dots(self, basis: Tensor, vector: Tensor) -> Tensor:
        """Return the inner products (m,) of the rows of ``basis`` (m, n) with ``vector`` (n,)."""
        if not self.sharded:
            return basis @ vector
        products: dict[Layout | None, Tensor] = {}
        for span, layout, _ in self._segments:
            product = basis[:, span] @ vector[span]
            products[layout] = products[layout] + product if layout in products else product
        return torch.stack(whole_sums(list(products.values()), list(products))).sum(0)

    def norm(self, vector: Tensor) -> float:
        """Return the Euclidean norm over all ranks."""
        if not self.sharded:
            return float(torch.linalg.vector_norm(vector))
        return float(self.dots(vector[None], vector)[0].clamp(min=0).sqrt())

    def random(self, generator: torch.Generator | None = None, *, signs: bool = False) -> Tensor:
        """Draw a vector (n,) of independent standard normals, or of signs ±1.

        Ranks that hold the same entries draw the same numbers, if their generators agree; those that hold
        different shards draw different ones.
        """
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device if generator else "cpu"))
        parts = []
        for index, (span, _, place) in enumerate(self._segments):
            draw = torch.Generator().manual_seed((seed + 7919 * index + 104_729 * place) % 2**63)
            size = (span.stop - span.start,)
            if signs:
                drawn = torch.randint(2, size, generator=draw).to(self.dtype) * 2 - 1
            else:
                drawn = torch.randn(size, generator=draw, dtype=self.dtype)
            parts.append(drawn.to(self.device))
        return torch.cat(parts)


def dense(gradient: Tensor) -> Tensor:
    """Return a gradient that may be sparse, as that of ``nn.Embedding(sparse=True)`` is, as a dense tensor."""
    return gradient.to_dense() if gradient.is_sparse else gradient
