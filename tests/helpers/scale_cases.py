"""What the processes of tests/scripts/test_bench_scale.py do. They have `scripts/` on their path."""

import pickle
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Shard
from torch.profiler import ProfilerActivity, profile

Numbers = dict[tuple[str, str], tuple[float, float]]


class Piece(NamedTuple):
    """A piece of work: calls and bytes that are to be counted in it, and that are."""

    name: str
    expected: Numbers
    counted: Numbers


def count(work: Sequence[tuple[str, Callable[[], Any], Numbers]]) -> tuple[list[Piece], int]:
    """Do each piece of work, and say how many collectives gloo's own records have of all of them."""
    from bench_scale import CollectiveCounter

    counter, pieces = CollectiveCounter(), []
    with profile(activities=[ProfilerActivity.CPU]) as records, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for counter.phase, do, expected in work:
            with counter:
                do()
            counts = counter.found.get(counter.phase, {})
            counted = {tuple(call): (traffic.calls, traffic.bytes) for call, traffic in counts.items()}
            pieces.append(Piece(counter.phase, expected, counted))
    return pieces, sum(event.name.startswith("gloo:") for event in records.events())


def collectives_of_two() -> tuple[list[Piece], int]:
    mesh = init_device_mesh("cpu", (2,))
    three, ours = torch.ones(3), "ours"
    shard = DTensor.from_local(torch.ones(2, 4), mesh, [Shard(0)])
    pending = DTensor.from_local(torch.ones(3), mesh, [Partial()])
    replica, sharded = nn.parallel.DistributedDataParallel(nn.Linear(4, 4)), nn.Linear(4, 4)
    fully_shard(sharded, mesh=mesh)

    def forward_and_backward(module: nn.Module) -> None:
        module(torch.ones(2, 4)).sum().backward()

    pickles = 2 * (8 + len(pickle.dumps(ours)))  # of each rank its length, and then itself
    return count(
        [
            ("nothing", lambda: three + three, {}),
            ("all_reduce", lambda: dist.all_reduce(three), {("all_reduce", "all"): (1, 12)}),
            ("two", lambda: [dist.all_reduce(three) for _ in "ab"], {("all_reduce", "all"): (2, 24)}),
            ("not waited for", lambda: dist.all_reduce(three, async_op=True).wait(), {("all_reduce", "all"): (1, 12)}),
            ("broadcast", lambda: dist.broadcast(three, 0), {("broadcast", "all"): (1, 12)}),
            ("gather", lambda: dist.all_gather([three, three], three.clone()), {("all_gather", "all"): (1, 24)}),
            ("barrier", dist.barrier, {("barrier", "all"): (1, 0)}),
            (
                "objects",
                lambda: dist.all_gather_object([None, None], ours),
                {("object all_gather", "all"): (2, pickles)},
            ),
            ("shards together", shard.full_tensor, {("all_gather", "all"): (1, 64)}),
            ("sum of shards", lambda: shard.sum().full_tensor(), {("all_reduce", "all"): (1, 4)}),
            ("what needs a pending sum", pending.relu, {("all_reduce", "all"): (1, 12)}),
            ("DDP", lambda: forward_and_backward(replica), {("all_reduce", "all"): (1, 80)}),
            (
                "FSDP2",
                lambda: forward_and_backward(sharded),
                {("all_gather", "all"): (1, 80), ("reduce_scatter", "all"): (1, 80)},
            ),
        ]
    )


def collectives_of_four() -> tuple[list[Piece], int]:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data_parallel", "tensor_parallel"))
    three = torch.ones(3)
    whole = {name: mesh.get_group(name) for name in ("data_parallel", "tensor_parallel")}
    shards = {name: DTensor.from_local(torch.ones(2, 4), mesh[name], [Shard(0)]) for name in whole}
    return count(
        [
            ("all", lambda: dist.all_reduce(three), {("all_reduce", "all"): (1, 12)}),
            *(
                (name, lambda name=name: dist.all_reduce(three, group=whole[name]), {("all_reduce", scope): (1, 12)})
                for name, scope in (("data_parallel", "data"), ("tensor_parallel", "tensor"))
            ),
            *(
                (f"shards, {name}", shards[name].full_tensor, {("all_gather", scope): (1, 64)})
                for name, scope in (("data_parallel", "data"), ("tensor_parallel", "tensor"))
            ),
        ]
    )


def clipped_steps(strategy: str) -> dict[str, Any]:
    """Return by the name of its row what each way to clip adds to the second of two steps."""
    import bench_scale

    shape = bench_scale.Shape(1, 16)
    bare = bench_scale.train(strategy, None, shape, steps=2)
    rows = [row for row in bench_scale.ROWS if row.name.startswith("GradientClipping")]
    return {
        row.name: bench_scale.difference(bench_scale.train(strategy, row.make, shape, steps=2), bare, ["1"])
        for row in rows
    }
