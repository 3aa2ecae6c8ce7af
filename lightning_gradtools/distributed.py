"""The only module that names a collective. Every function says why the ranks have to talk at all.

A gradient under DDP is averaged before anyone here sees it and needs none of this. What needs it is a
gradient of which a rank holds only a shard (FSDP2, tensor parallelism: ``DTensor``), and a decision all ranks
must take alike.
"""

from collections.abc import Callable
from hashlib import sha256
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate

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


def summed(tensor: DTensor) -> DTensor:
    """Carry out the sum that a ``Partial`` placement leaves pending, if ``tensor`` has one.

    Tensor parallelism leaves them on gradients of replicated weights. Neither the norm nor the clamp of a sum
    can be had from its terms, of which every rank holds one.
    """
    if not any(placement.is_partial() for placement in tensor.placements):
        return tensor
    placements = [Replicate() if placement.is_partial() else placement for placement in tensor.placements]
    return tensor.redistribute(placements=placements)


def local_shard(tensor: DTensor) -> tuple[Tensor, DeviceMesh, tuple[int, ...]]:
    """Return this rank's part of ``tensor``, its mesh, and the mesh dimensions along which it is split."""
    tensor = summed(tensor)
    split = tuple(dim for dim, placement in enumerate(tensor.placements) if placement.is_shard())
    return tensor.to_local(), tensor.device_mesh, split


def on_this_rank(tensor: Tensor) -> Tensor:
    """Return what this rank holds of ``tensor``, in the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def sum_over_shards(values: Tensor, mesh: DeviceMesh, split: tuple[int, ...]) -> Tensor:
    """Sum ``values`` in place over the mesh dimensions ``split``: a sharded sum is whole only then."""
    return _reduce_over_shards(values, mesh, split, dist.ReduceOp.SUM)


def max_over_shards(values: Tensor, mesh: DeviceMesh, split: tuple[int, ...]) -> Tensor:
    """Take the maximum of ``values`` in place over the mesh dimensions ``split``, as for a flag."""
    return _reduce_over_shards(values, mesh, split, dist.ReduceOp.MAX)


def _reduce_over_shards(
    values: Tensor, mesh: DeviceMesh, split: tuple[int, ...], op: dist.ReduceOp.RedOpType
) -> Tensor:
    for dim in split:
        dist.all_reduce(values, op=op, group=mesh.get_group(dim))
    return values


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
