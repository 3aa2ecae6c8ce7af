"""The only module that names a collective. Every function says why the ranks have to talk at all.

A gradient under DDP is averaged before anyone here sees it and needs none of this. What needs it is a
gradient of which a rank holds only a shard (FSDP2, tensor parallelism: ``DTensor``), and a decision all ranks
must take alike.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Replicate
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_gradtools.interrupts import raise_held_interrupt

_T = TypeVar("_T")


class RankFailure(RuntimeError):  # noqa: N818 (it names what happened, elsewhere)
    """Another rank failed in a part of the work that each rank does by itself, so this rank cannot go on either.

    Attributes:
        interrupted: whether a ``KeyboardInterrupt`` was among what the others raised.
    """

    def __init__(self, message: str, *, interrupted: bool = False) -> None:
        super().__init__(message)
        self.interrupted = interrupted


@dataclass(frozen=True, eq=False)
class LocalPart:
    """What this rank holds of a tensor.

    Attributes:
        values: its entries on this rank: those of a plain tensor, or of the shard of a ``DTensor``.
        mesh: that the tensor lies on; None for a plain tensor.
        split: dimensions of the mesh along which the ranks hold different entries; along the others they hold the same.
        place: number of this part among all parts, from 0; ranks that hold the same entries share it.
        dims: by dimension of the mesh in ``split``, the tensor's dimension that is split there; None if not one.
    """

    values: Tensor
    mesh: DeviceMesh | None = None
    split: tuple[int, ...] = ()
    place: int = 0
    dims: tuple[int | None, ...] = ()

    @property
    def layout(self) -> "Layout | None":
        """How it is split, equal for tensors whose sums may share one reduction; None if it is whole on this rank."""
        return Layout(self.mesh, self.split) if self.mesh is not None and self.split else None

    @property
    def along_first(self) -> "Layout | None":
        """The part of the layout that may split the tensor's first dimension; None without one."""
        split = tuple(axis for axis, dim in zip(self.split, self.dims, strict=True) if dim in (0, None))
        return Layout(self.mesh, split) if self.mesh is not None and split else None

    def across(self, first: int) -> "Layout | None":
        """Return the part of the layout that splits the tensor's dimensions from ``first`` on; None without one."""
        split = tuple(
            axis for axis, dim in zip(self.split, self.dims, strict=True) if first == 0 or dim is None or dim >= first
        )
        return Layout(self.mesh, split) if self.mesh is not None and split else None


class Layout(NamedTuple):
    """Dimensions of a mesh along which tensors are split: what their ranks have to reduce over."""

    mesh: DeviceMesh
    split: tuple[int, ...]

    @property
    def copies(self) -> int:
        """On how many ranks of the mesh each part lies."""
        return self.mesh.size() // math.prod(self.mesh.size(dim) for dim in self.split)

    @property
    def lies_on_all_ranks(self) -> bool:
        """Whether every rank of the job holds a part, so that one reduction serves whatever else all of them hold."""
        return self.mesh.size() == world_size()

    def max(self, values: Tensor) -> Tensor:
        """Take the maximum of ``values`` in place over the parts."""
        return self.reduce(values, dist.ReduceOp.MAX)

    def sum(self, values: Tensor) -> Tensor:
        """Sum ``values`` in place over the parts, on each rank."""
        return self.reduce(values, dist.ReduceOp.SUM)

    def reduce(self, values: Tensor, op: dist.ReduceOp.RedOpType) -> Tensor:
        """Reduce ``values`` in place over the parts, one call for each dimension of the mesh."""
        for dim in self.split:
            dist.all_reduce(values, op=op, group=self.mesh.get_group(dim))
        return values


def whole_sums(parts: Sequence[Tensor], layouts: Sequence[Layout | None]) -> list[Tensor]:
    """Return sums over whole tensors from the sums over this rank's parts.

    Ranks reduce once, in float64, for all tensors whose mesh has every rank, whatever way each is split: what lies on
    several ranks counts there by its share. Tensors of a mesh of some ranks reduce along its dimensions.

    Args:
        parts: [n] or [], of any lengths, for each tensor.
        layouts: how each tensor is split; None if it is whole on this rank.

    Returns:
        Tensors of the shapes, dtypes and devices of ``parts``. Where all came from one reduction they are the very same
        on every rank.
    """
    return _brought_together(parts, layouts, dist.ReduceOp.SUM)


def whole_maxima(parts: Sequence[Tensor], layouts: Sequence[Layout | None]) -> list[Tensor]:
    """Return maxima over whole tensors from those over this rank's parts, as :func:`whole_sums` does sums."""
    return _brought_together(parts, layouts, dist.ReduceOp.MAX)


def _brought_together(
    parts: Sequence[Tensor], layouts: Sequence[Layout | None], op: dist.ReduceOp.RedOpType
) -> list[Tensor]:
    found = list(parts)
    reductions: dict[tuple[Layout | None, torch.device], list[int]] = {}  # None: over all ranks
    for index, layout in enumerate(layouts):
        if layout is not None:
            over = None if layout.lies_on_all_ranks else layout
            reductions.setdefault((over, parts[index].device), []).append(index)
    for (over, _), indices in reductions.items():
        packed = torch.cat([parts[index].detach().double().reshape(-1) for index in indices])
        if over is not None:
            over.reduce(packed, op)
        else:
            if op == dist.ReduceOp.SUM:
                copies = [layout.copies for index in indices if (layout := layouts[index]) is not None]
                if max(copies) > 1:
                    sizes = torch.tensor([parts[index].numel() for index in indices])
                    packed /= torch.tensor(copies, dtype=torch.float64).repeat_interleave(sizes).to(packed.device)
            dist.all_reduce(packed, op=op)
        for index, values in zip(indices, packed.split([parts[index].numel() for index in indices]), strict=True):
            found[index] = values.to(parts[index].dtype).view_as(parts[index])
    return found


class CommunicationError(RuntimeError):
    """What one rank was to do by itself asks for other ranks, which are not there."""


class _Alone(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace.lstrip("_").startswith("c10d"):
            raise CommunicationError(
                f"it talks to the other ranks ({func.namespace}.{func.__name__.partition('.')[0].strip('_')}), and"
                " cannot be run by one of them alone"
            )
        return func(*args, **(kwargs or {}))


def alone() -> AbstractContextManager[Any]:
    """Run the body on this rank alone: a collective in it raises where it would wait for ranks that do not come.

    For user's code that ranks run a different number of times, or that one of them runs.

    Raises:
        CommunicationError: in the body, at a collective, with several ranks.
    """
    return nullcontext() if world_size() == 1 else _Alone()


def summed(tensor: Tensor) -> Tensor:
    """Carry out the sum that a ``Partial`` placement leaves pending, if ``tensor`` has one.

    Tensor parallelism leaves them on gradients of replicated weights. Neither the norm nor the clamp of a sum
    can be had from its terms, of which every rank holds one.
    """
    if not isinstance(tensor, DTensor) or not has_pending_sum(tensor):
        return tensor
    placements = [Replicate() if placement.is_partial() else placement for placement in tensor.placements]
    return tensor.redistribute(placements=placements)


def has_pending_sum(tensor: Tensor) -> bool:
    """Say whether a sum over ranks is yet to be carried out on ``tensor``."""
    return isinstance(tensor, DTensor) and any(placement.is_partial() for placement in tensor.placements)


def local_part(tensor: Tensor) -> LocalPart:
    """Return what this rank holds of ``tensor``, plain or a ``DTensor`` of any mesh and placement.

    A pending sum is carried out, which communicates. What is neither a copy nor a sum is a share: FSDP2 over tensor
    parallelism shards by a class of its own, which says of itself that it is no shard.
    """
    tensor = summed(tensor)
    if not isinstance(tensor, DTensor):
        return LocalPart(tensor)
    mesh = tensor.device_mesh
    split = {i: each for i, each in enumerate(tensor.placements) if not each.is_replicate() and mesh.size(i) > 1}
    coordinate: Sequence[int] = mesh.get_coordinate() or [0] * mesh.ndim
    place = 0
    for axis in split:
        place = place * mesh.size(axis) + coordinate[axis]
    dims = tuple(getattr(each, "dim", None) for each in split.values())
    return LocalPart(tensor.to_local(), mesh, tuple(split), place, dims)


def on_this_rank(tensor: Tensor) -> Tensor:
    """Return what this rank holds of ``tensor``, in the same memory. Of a pending sum that is a term of it."""
    here: Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return here


def reshard(module: nn.Module) -> None:
    """Give back the whole weights that FSDP2 keeps after a forward pass, in the place of their shards."""
    for each in module.modules():
        if isinstance(each, FSDPModule):
            each.reshard()


def arrived(tensor: Tensor) -> Tensor:
    """Return ``tensor``, once it is there: tensor parallelism hands on results of collectives that are under way."""
    there: Tensor = tensor.wait() if isinstance(tensor, AsyncCollectiveTensor) else tensor
    return there


def is_distributed(tensor: Tensor) -> bool:
    """Say whether ``tensor`` may lie on several ranks, so that they have to reduce together what it adds up to."""
    return isinstance(tensor, DTensor)


def any_rank(flag: Tensor) -> Tensor:
    """Return a 0-d tensor that is non-zero on every rank if ``flag`` is on any.

    For decisions that change the weights. Plain (not ``DTensor``) gradients outside DDP may differ between
    ranks by a rounding, or belong to one rank alone; were one rank to skip a step and another not, their
    weights would part.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return flag
    agreed = flag.to(torch.float32, copy=True)
    dist.all_reduce(agreed, op=dist.ReduceOp.MAX)
    return agreed


def mean_over_ranks(values: Tensor) -> Tensor:
    """Average ``values`` over all ranks, for statistics of which every rank holds its own sample."""
    if not (dist.is_available() and dist.is_initialized()):
        return values
    mean = values.clone()
    dist.all_reduce(mean)
    return mean / dist.get_world_size()


def mean_over_ranks_of(compute: Callable[[], Tensor], like: Tensor) -> Tensor:
    """Average what ``compute`` returns on each rank; if it raises on any rank, raise on all of them.

    A rank that left with an error of its own, such as running out of memory, would leave the others in the reduction
    for ever. So it takes part with zeros, and three more numbers in the same reduction tell of failures. What is sent
    is allocated before the work: a rank whose memory is full can still tell.

    Args:
        compute: this rank's part, without a collective: where one rank fails before it, the others would wait in it.
        like: has the shape, dtype and device of what it returns; its values are not read.

    Raises:
        BaseException: what ``compute`` raised, ``KeyboardInterrupt`` too, on the rank where it did.
        RankFailure: on the others.
        ValueError: if ``compute`` returns another shape than that of ``like``.
    """
    if world_size() == 1:
        return compute()
    size = like.numel()
    told = torch.zeros(size + 3, dtype=like.dtype, device=like.device)
    try:
        raise_held_interrupt()
        values = compute()
        if values.shape != like.shape:
            raise ValueError(f"compute() returned shape {tuple(values.shape)}: must be {tuple(like.shape)}")
        told[:size] = values.reshape(-1)
    except BaseException as error:
        told[size:] = torch.tensor([1, dist.get_rank(), isinstance(error, KeyboardInterrupt)])
        dist.all_reduce(told)
        raise
    dist.all_reduce(told)
    failed, place, interrupts = (int(number) for number in told[size:].tolist())
    if failed:
        who = f"rank {place}" if failed == 1 else f"{failed} others"
        what = "was interrupted" if interrupts else "raised an error of its own"
        raise RankFailure(f"another rank failed: {who} {what}", interrupted=interrupts > 0)
    return told[:size].div_(world_size()).view(like.shape)


def on_all_ranks(compute: Callable[[], _T], device: torch.device) -> _T:
    """Return what ``compute`` returns on this rank, once it has succeeded on every rank.

    For what a rank prepares by itself before ranks reduce together; errors are those of :func:`mean_over_ranks_of`.

    Args:
        compute: this rank's part.
        device: of the collective's tensor.
    """
    results: list[_T] = []

    def part() -> Tensor:
        results.append(compute())
        return torch.zeros(0, device=device)

    mean_over_ranks_of(part, torch.zeros(0, device=device))
    return results[0]


class Meeting(NamedTuple):
    """What ranks learn of one another before they reduce anything together.

    Attributes:
        same: whether all brought the same.
        anyone_failed: whether one of them cannot go on.
    """

    same: bool
    anyone_failed: bool


def meet(text: str, failed: bool, device: torch.device) -> Meeting:
    """Compare what all ranks bring, in one reduction of three numbers.

    Ranks may reduce together only what all of them have, and a rank on which something failed has to tell the others,
    or they would wait for it.

    Args:
        text: what this rank has, in words.
        failed: whether this rank cannot go on.
        device: that the group serves.
    """
    if world_size() == 1:
        return Meeting(True, failed)
    number = int.from_bytes(sha256(text.encode()).digest()[:7], "big")  # fits into a signed 64-bit integer
    extremes = torch.tensor([number, -number, int(failed)], device=device)
    dist.all_reduce(extremes, op=dist.ReduceOp.MAX)
    largest, least, anyone_failed = extremes.tolist()
    return Meeting(largest == -least, bool(anyone_failed))


def largest_over_ranks(values: Tensor) -> Tensor:
    """Take the maximum of ``values`` over all ranks, for counts of which every rank keeps its own."""
    if world_size() == 1:
        return values
    largest = values.clone()
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return largest


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor of which each rank may hold a part, on every rank."""
    full: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full


def gather_objects(value: object) -> list[object]:
    """Return the ``value`` of every rank, in order of rank: what one process saw has to be known to all."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values: list[object] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def world_size() -> int:
    """Return the number of processes, 1 without distributed training."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, 0 without distributed training."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
