"""Vectors with one entry per parameter, kept flat and, where the parameters are, sharded."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.distributed import local_shard, sum_over_shards


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
        local = [_local(parameter) for parameter in self.parameters]
        self._sizes = [shard.numel() for shard in local]
        self._shapes = [shard.shape for shard in local]
        self.numel = sum(self._sizes)
        self.dimension = sum(parameter.numel() for parameter in self.parameters)
        self.dtype = torch.float64 if any(p.dtype == torch.float64 for p in self.parameters) else torch.float32
        self.device = local[0].device
        self.sharded = any(isinstance(parameter, DTensor) for parameter in self.parameters)
        # one kind of parameter, as most networks have, needs no conversion for each
        self._uniform = not self.sharded and all(
            p.dtype == self.dtype and p.device == self.device for p in self.parameters
        )
        # parameters next to each other that are split alike share one reduction
        self._segments: list[tuple[slice, DTensor | None]] = []
        start = 0
        for parameter, size in zip(self.parameters, self._sizes, strict=True):
            layout = parameter if isinstance(parameter, DTensor) else None
            if self._segments and _alike(self._segments[-1][1], layout):
                self._segments[-1] = (slice(self._segments[-1][0].start, start + size), layout)
            else:
                self._segments.append((slice(start, start + size), layout))
            start += size

    def flatten(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return tensors shaped as the parameters, such as gradients, sparse or dense, as one vector (n,)."""
        if self._uniform:
            return torch.cat([dense(tensor).reshape(-1) for tensor in tensors]).detach().to(self.device, self.dtype)
        parts = [dense(_local(tensor)).detach().reshape(-1).to(self.device, self.dtype) for tensor in tensors]
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
        total = torch.zeros(len(basis), dtype=vector.dtype, device=basis.device)
        for span, layout in self._segments:
            part = basis[:, span] @ vector[span]
            if layout is not None:
                _, mesh, split = local_shard(layout)
                part = sum_over_shards(part, mesh, split)
            total += part
        return total

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
        for index, (span, layout) in enumerate(self._segments):
            draw = torch.Generator().manual_seed((seed + 7919 * index + _place(layout)) % 2**63)
            size = (span.stop - span.start,)
            if signs:
                part = torch.randint(2, size, generator=draw).to(self.dtype) * 2 - 1
            else:
                part = torch.randn(size, generator=draw, dtype=self.dtype)
            parts.append(part.to(self.device))
        return torch.cat(parts)


def dense(gradient: Tensor) -> Tensor:
    """Return a gradient that may be sparse, as that of ``nn.Embedding(sparse=True)`` is, as a dense tensor."""
    return gradient.to_dense() if gradient.is_sparse else gradient


def _local(tensor: Tensor) -> Tensor:
    return local_shard(tensor)[0] if isinstance(tensor, DTensor) else tensor


def _alike(one: DTensor | None, other: DTensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.device_mesh == other.device_mesh and one.placements == other.placements


def _place(layout: DTensor | None) -> int:
    """Number the shard that this rank holds, from 0; replicas share one number."""
    if layout is None:
        return 0
    coordinate: Sequence[int] = layout.device_mesh.get_coordinate() or ()
    number = 0
    for dim, placement in enumerate(layout.placements):
        if placement.is_shard():
            number = number * layout.device_mesh.size(dim) + coordinate[dim]
    return number * 104_729
