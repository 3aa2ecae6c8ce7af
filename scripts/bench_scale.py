"""What our callbacks say to other ranks: collective calls and bytes a step, and what they would cost on many ranks.

    python scripts/bench_scale.py                                # all; 8 minutes on 2 cores
    python scripts/bench_scale.py --strategies FSDP2 --json out.json
    python scripts/bench_scale.py --latency-factor 14            # a network with slow small messages

Counts: a small GPT trains under DDP and FSDP2 on two processes, and under FSDP2 x tensor parallelism on four, on the
CPU. Every collective that passes torch's dispatcher is counted, of Python or C++, in forward, backward and between;
those of the same run without the callback are subtracted. Bytes are a message's size as nccl-tests counts it: of an
all_gather all that arrives, of a reduce_scatter all that is sent. Bytes of objects (pickles) are those of the rank that
has most.

=================  =====================================================================================
column             what is added
=================  =====================================================================================
ordinary step      on each step
event              besides, on a step on which it logs, samples, computes, asks or saves
flush              besides, where ``logs_per_flush`` logged steps are brought to the host
outside steps      from the start of the run to the first batch, and from the epoch's end on, where
                   Lightning saves a checkpoint
=================  =====================================================================================

Costs: the same at four sizes of the model, extrapolated. Calls are linear in the number of tensors, bytes in those of
tensors, units (outputs of activation functions) and parameters. Only collectives are projected: neither our kernels,
nor a host that waits for its device, nor ranks that wait for the slowest. Cadences are the defaults: logging every 50
steps, a detector's sample every 40, a look at the clock every 100, a checkpoint every 5 minutes. Only that of a
spectrum is made up, every 1,000 steps, of as many gradients as counted here; by default it plans itself by the clock,
and takes 2% of the time at most. A row "saving" is a checkpoint as Lightning and torch write it, with what is ours.

The time of a call is NCCL's own estimate, by which it chooses its algorithm: `src/graph/tuning.cc` of NCCL 2.30.7
(https://github.com/NVIDIA/nccl), LL protocol, a tree for all_reduce and a ring for the others. It is multiplied by 2.5,
because on 2 x 8 H100 it estimates 25.2 us for 128 bytes where nccl-tests measured 61.6 ("Poor NCCL allreduce
performance", https://github.com/NVIDIA/nccl/issues/1453). An old and slow network: 630 us on 8 x 8 V100, estimated 45
("NCCL Tests on 8 node p3dn.24xlarge + EFA", 2019,
https://gist.github.com/jacobkahn/3150a1a38abba40f58d8263d9c55969f).
"""

import argparse
import json
import logging
import math
import multiprocessing
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.multiprocessing.spawn import start_processes
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

from lightning_gradtools import GradientCheck, GradientClipping, GradientMonitor, HessianSpectrum, PathologyDetector
from lightning_gradtools.callbacks import LastCheckpoint

# --- counting
# -------------------------------------------------------------------------------------------------

_NAMESPACES = ("c10d", "_c10d_functional", "_c10d_functional_autograd")
_NO_COLLECTIVES = ("wait_tensor", "_wrap_tensor_autograd", "check_for_nan")
# By a part of the operator's name; the first that is found counts.
_KINDS = {
    "reduce_scatter": "reduce_scatter",
    "allreduce": "all_reduce",
    "all_reduce": "all_reduce",
    "allgather": "all_gather",
    "all_gather": "all_gather",
    "alltoall": "all_to_all",
    "all_to_all": "all_to_all",
    "broadcast": "broadcast",
    "barrier": "barrier",
    "gather": "gather",
    "scatter": "scatter",
    "reduce": "reduce",
    "send": "send",
    "recv": "recv",
}
_OF_OBJECTS = ("all_gather_object", "gather_object", "broadcast_object_list", "scatter_object_list")


class Call(NamedTuple):
    """A collective by its kind, and whether among all ranks or along a dimension of the mesh ("data", "tensor")."""

    kind: str
    scope: str = "all"


class Traffic(NamedTuple):
    """How many, and their bytes."""

    calls: float
    bytes: float


Counts = Mapping[Call, Traffic]


def combined(parts: Iterable[tuple[float, Counts]]) -> dict[Call, Traffic]:
    """Return the sum of counts, each times a factor, without what comes to nothing."""
    total: dict[Call, Traffic] = {}
    for factor, counts in parts:
        for call, traffic in counts.items():
            before = total.get(call, Traffic(0, 0))
            total[call] = Traffic(before.calls + factor * traffic.calls, before.bytes + factor * traffic.bytes)
    return {call: traffic for call, traffic in total.items() if traffic != Traffic(0, 0)}


class CollectiveCounter(TorchDispatchMode):
    """Counts this thread's collectives while it is entered. Backward on the CPU is of the same thread.

    Attributes:
        phase: what is counted is entered under this name.
        found: counts by phase.
    """

    def __init__(self) -> None:
        super().__init__()
        self.phase = "start"
        self.found: dict[str, dict[Call, Traffic]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operator, and count it if it is a collective."""
        if any(issubclass(each, DTensor) for each in types):
            return NotImplemented  # it takes itself apart, and its parts come here
        result = func(*args, **(kwargs or {}))
        namespace, _, name = func.name().partition("::")
        if namespace in _NAMESPACES and not name.startswith(_NO_COLLECTIVES):
            kind = _kind(name)
            size = 0 if kind == "barrier" else max(_bytes(each) for each in (*args, result))
            of_objects = any(caller in _OF_OBJECTS for caller in _callers())
            call = Call(f"object {kind}" if of_objects else kind, _scope(args))
            counts = self.found.setdefault(self.phase, {})
            counts[call] = combined([(1, {call: counts.get(call, Traffic(0, 0))}), (1, {call: Traffic(1, size)})])[call]
        return result


def _kind(name: str) -> str:
    for part, kind in _KINDS.items():
        if part in name:
            return kind
    raise ValueError(f"{name}: must be a collective that this script knows")


def _bytes(value: Any) -> int:
    return sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(value) if isinstance(leaf, Tensor))


def _callers() -> Iterator[str]:
    frame = sys._getframe(1)
    while frame is not None:
        yield frame.f_code.co_name
        frame = frame.f_back  # type: ignore[assignment]


def _scope(args: Sequence[Any]) -> str:
    """Say which ranks an operator's group has. Tensor parallelism is among neighbours: the mesh's last dimension."""
    c10d: Any = dist.distributed_c10d
    for each in reversed(args):
        if isinstance(each, torch.ScriptObject) and "ProcessGroup" in str(each._type()):
            group = dist.ProcessGroup.unbox(each)
            break
        if isinstance(each, str):
            group = c10d._resolve_process_group(each)
            break
    ranks = dist.get_process_group_ranks(group)
    if len(ranks) == dist.get_world_size():
        return "all"
    return "tensor" if ranks[1] == ranks[0] + 1 else "data"


# --- the runs
# -------------------------------------------------------------------------------------------------


class Shape(NamedTuple):
    """Sizes of a :class:`GPT`."""

    depth: int
    width: int
    vocabulary: int = 64

    @property
    def tensors(self) -> int:
        """Number of its parameters as tensors."""
        return 10 * self.depth + 4

    @property
    def units(self) -> int:
        """Number of outputs of its activation functions."""
        return 4 * self.depth * self.width

    @property
    def parameters(self) -> int:
        """Number of its weights."""
        return self.depth * (12 * self.width**2 + 4 * self.width) + 2 * self.width * (self.vocabulary + 1)


class Block(nn.Module):
    """A pre-norm transformer block of 10 tensors; tensor parallelism splits heads and hidden units."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.output = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.expand, self.contract = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)
        self.activation = nn.GELU()
        self.head = width // 4

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, time, width) to the same."""
        y = self.attention_norm(x)
        q, k, v = (
            each(y).unflatten(-1, (-1, self.head)).transpose(1, 2) for each in (self.query, self.key, self.value)
        )
        x = x + self.output(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        z: Tensor = x + self.contract(self.activation(self.expand(self.mlp_norm(x))))
        return z


class GPT(LightningModule):
    """Predicts the next token; split as the strategy's mesh says."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.blocks = nn.ModuleList(Block(shape.width) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.width)
        self.unembedding = nn.Linear(shape.width, shape.vocabulary, bias=False)

    def configure_model(self) -> None:
        mesh: Any = self.device_mesh
        if mesh is None or isinstance(self.norm.weight, DTensor):
            return
        plan: dict[str, Any] = {name: ColwiseParallel() for name in ("query", "key", "value", "expand")}
        plan.update({name: RowwiseParallel() for name in ("output", "contract")})
        for block in self.blocks:
            if mesh["tensor_parallel"].size() > 1:
                parallelize_module(block, mesh["tensor_parallel"], plan)
        for module in (self.embedding, *self.blocks, self.norm, self.unembedding):
            fully_shard(module, mesh=mesh["data_parallel"])

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        x = self.embedding(batch)
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.unembedding(self.norm(x))[:, :-1].flatten(0, 1), batch[:, 1:].flatten())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class Setup(NamedTuple):
    """How ranks share the work."""

    ranks: int
    strategy: Callable[[], Strategy]
    shards: bool


STRATEGIES = {
    "DDP": Setup(2, DDPStrategy, shards=False),
    "FSDP2": Setup(2, lambda: ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1), shards=True),
    "FSDP2 x TP": Setup(4, lambda: ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=2), shards=True),
}

PERIOD = 4  # steps between two events
STEPS = 3 * PERIOD  # in the second period the monitor flushes, in the third not


@dataclass(frozen=True)
class Row:
    """A callback and when it speaks.

    Attributes:
        name: as it is called.
        make: makes it.
        event: what it does at times; "" for nothing.
        every: steps between two events in the projection; None: seconds between them are ``every_seconds``.
        steps: batches among which one event is counted.
        ordinary: a batch without an event; None if there is none.
        flushes: whether it brings several logged steps to the host together.
        only: the strategy that it is for; "" for all.
    """

    name: str
    make: Callable[[], Callback]
    event: str = ""
    every: float | None = math.inf
    every_seconds: float = math.inf
    steps: tuple[int, ...] = tuple(range(2 * PERIOD, 3 * PERIOD))
    ordinary: int | None = 2 * PERIOD + 1
    flushes: bool = False
    only: str = ""


def _monitor(name: str = "", only: str = "", **settings: Any) -> Row:
    return Row(
        name=f"GradientMonitor({name})",
        make=lambda: GradientMonitor(logs_per_flush=2, **settings),
        event="logged step",
        every=50,
        flushes=True,
        only=only,
    )


def _clipping(name: str, **settings: Any) -> Row:
    return Row(name=f"GradientClipping({name})", make=lambda: GradientClipping(**settings))


ROWS = (
    _monitor(),
    _monitor("weight_norm", weight_norm=True),
    _monitor("update_ratio", update_ratio=True),
    _monitor("cosine", cosine=True),
    _monitor("noise_scale", noise_scale=True, only="DDP"),
    _monitor("histograms", histograms=True),
    _clipping("max_norm", max_norm=1.0),
    _clipping("clip_value", clip_value=1.0),
    _clipping("adaptive", adaptive=0.01),
    _clipping("zscore", zscore=2.5),
    Row("PathologyDetector()", lambda: PathologyDetector(every_n_steps=PERIOD, table=False), "sample", every=40),
    Row("HessianSpectrum(top_k=1)", lambda: HessianSpectrum(every_n_steps=PERIOD, top_k=1), "spectrum", every=1000),
    Row("LastCheckpoint()", LastCheckpoint, "look at the clock", every=100, steps=(0,)),
    Row(
        "LastCheckpoint(), saving",
        lambda: LastCheckpoint(every_minutes=0),
        "save",
        every=None,
        every_seconds=300,
        steps=(2 * PERIOD,),
        ordinary=None,
    ),
    Row("GradientCheck()", lambda: GradientCheck(on_failure="warn"), "check, once a run", steps=(0,)),
)

# What a run is likely to have. They share one pass over the gradients, so this is the most they cost.
TOGETHER = (
    "GradientMonitor()",
    "GradientClipping(max_norm)",
    "PathologyDetector()",
    "LastCheckpoint()",
    "LastCheckpoint(), saving",
)


class _StepMarker(Callback):
    """Tells the counter which batch has begun."""

    def __init__(self, counter: CollectiveCounter) -> None:
        self.counter = counter

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.counter.phase = str(batch_idx)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.counter.phase = "end"


@dataclass
class Run:
    """What one rank did.

    Attributes:
        counts: by phase: "start", the number of each batch, "end".
        gradients: of the last spectrum; 1 without one.
        failure: what switched the callback off.
    """

    counts: dict[str, dict[Call, Traffic]]
    gradients: float = 1.0
    failure: str | None = None


def train(strategy: str, make: Callable[[], Callback] | None, shape: Shape, steps: int = STEPS) -> Run:
    """Train with the callback that ``make`` makes, as one rank of a group that is there, and count."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("torch.distributed.tensor").setLevel(logging.ERROR)
    torch.manual_seed(0)
    counter = CollectiveCounter()
    callback = None if make is None else make()
    data: Any = torch.randint(shape.vocabulary, (steps, 4, 8))
    with tempfile.TemporaryDirectory() as own, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder: list[Any] = [own]
        dist.broadcast_object_list(folder)
        trainer = Trainer(
            accelerator="cpu",
            devices=dist.get_world_size(),
            strategy=STRATEGIES[strategy].strategy(),
            max_epochs=1,
            log_every_n_steps=PERIOD,
            callbacks=[_StepMarker(counter), ModelCheckpoint(), *([] if callback is None else [callback])],
            use_distributed_sampler=False,
            default_root_dir=folder[0],
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        with counter:
            trainer.fit(GPT(shape), DataLoader(data, batch_size=None))
        dist.barrier()  # the folder is the first rank's
    run = Run(counter.found, failure=getattr(callback, "failure", None))
    if isinstance(callback, HessianSpectrum) and callback.history:
        run.gradients = callback.history[-1][1]["curvature/gradients"]
    return run


def train_all(strategy: str, shape: Shape) -> dict[str, Run]:
    """Train without a callback (""), and with that of each row."""
    rows = [row for row in ROWS if row.only in ("", strategy)]
    return {"": train(strategy, None, shape), **{row.name: train(strategy, row.make, shape) for row in rows}}


def in_processes(ranks: int, work: Callable[..., Any], *args: Any) -> list[Any]:
    """Return what ``work(*args)`` returned on each of ``ranks`` processes."""
    multiprocessing.set_forkserver_preload(["lightning_gradtools.callbacks"])
    with tempfile.TemporaryDirectory() as folder:
        start_processes(_be_rank, (ranks, work, args, folder), nprocs=ranks, start_method="forkserver")
        return [torch.load(f"{folder}/{rank}", weights_only=False) for rank in range(ranks)]


def _be_rank(rank: int, ranks: int, work: Callable[..., Any], args: tuple[Any, ...], folder: str) -> None:
    torch.set_num_threads(1)
    os.chdir(folder)
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    names = {"TORCHELASTIC_RUN_ID": "scale", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    os.environ.update({key: str(value) for key, value in {**numbers, **names}.items()})
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks, timeout=timedelta(minutes=5))
    try:
        torch.save(work(*args), f"{folder}/{rank}")
    finally:
        dist.destroy_process_group()


# --- what a callback adds
# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Added:
    """What a callback adds to a run: the columns of the table.

    Attributes:
        gradients: that a spectrum spent; 1 elsewhere.
        failure: what switched it off.
    """

    ordinary: Counts
    event: Counts
    flush: Counts
    outside: Counts
    gradients: float = 1.0
    failure: str | None = None


def over_ranks(runs: Sequence[Run]) -> Run:
    """Return what all ranks did: they all make the same calls, and the largest of their messages counts.

    Raises:
        RuntimeError: if they do not make the same calls.
    """
    first = runs[0]
    merged: dict[str, dict[Call, Traffic]] = {}
    for phase in {phase for run in runs for phase in run.counts}:
        each = [run.counts.get(phase, {}) for run in runs]
        merged[phase] = {
            call: Traffic(traffic.calls, max(one.get(call, traffic).bytes for one in each))
            for call, traffic in each[0].items()
        }
        if any(
            {call: one[call].calls for call in one} != {call: t.calls for call, t in each[0].items()} for one in each
        ):
            raise RuntimeError(f"ranks do not make the same calls in phase {phase!r}: {each}")
    return Run(merged, first.gradients, next((run.failure for run in runs if run.failure), None))


def difference(run: Run, bare: Run, phases: Sequence[str]) -> dict[Call, Traffic]:
    """Return what is in these phases of ``run`` beside what is in those of ``bare``."""
    return combined((sign, each.counts.get(phase, {})) for phase in phases for sign, each in ((1, run), (-1, bare)))


def added(row: Row, run: Run, bare: Run) -> Added:
    """Subtract the run without a callback, and divide the rest among the columns."""
    ordinary = {} if row.ordinary is None else difference(run, bare, [str(row.ordinary)])
    events = difference(run, bare, [str(step) for step in row.steps])
    flushed = difference(run, bare, [str(step - PERIOD) for step in row.steps]) if row.flushes else events
    return Added(
        ordinary=ordinary,
        event=combined([(1, events), (-len(row.steps), ordinary)]),
        flush=combined([(1, flushed), (-1, events)]),
        outside=difference(run, bare, ["start", "end"]),
        gradients=run.gradients,
        failure=run.failure,
    )


# --- what it costs
# -------------------------------------------------------------------------------------------------


class Model(NamedTuple):
    """A model that many ranks train."""

    name: str
    shape: Shape


MODELS = (Model("1B", Shape(16, 2048, 128_256)), Model("70B", Shape(80, 8192, 128_256)))
RANKS = (8, 64, 1024)
SAMPLED_SHAPES = (Shape(2, 16), Shape(1, 16), Shape(1, 32), Shape(1, 48))  # the first is that of the table of counts

NODE = 8
TOKENS = 4096
PEAK = 989e12
UTILISATION = 0.4
STATE_BYTES = 16
MEMORY = 80e9
NVLINK = 450e9
NETWORK = 50e9


def assumptions(factor: float) -> list[tuple[str, str, str]]:
    """Return name, value and source of everything the projection takes for granted."""
    llama = "Llama 3 (Grattafiori et al. 2024, arXiv:2407.21783)"
    nccl = "NCCL 2.30.7, src/graph/tuning.cc"
    return [
        *(
            (
                f"model {model.name}",
                f"{model.shape.depth} layers of width {model.shape.width:,}, vocabulary {model.shape.vocabulary:,}:"
                f" {model.shape.tensors} tensors, {model.shape.parameters / 1e9:.3g}e9 parameters",
                f"depth, width and vocabulary of {source}; layers are the script's own",
            )
            for model, source in zip(MODELS, ("Llama 3.2 1B, its config.json", f"the 70B of {llama}"), strict=True)
        ),
        ("tokens", f"{TOKENS:,} a step and rank: one sequence, so that steps are short", "assumed"),
        ("step", "6 FLOP a parameter and token", "Kaplan et al. 2020, arXiv:2001.08361, section 2.1"),
        ("device", f"{PEAK / 1e12:.0f} TFLOP/s in bfloat16, {MEMORY / 1e9:.0f} GB", "NVIDIA H100 SXM, data sheet"),
        ("MFU", f"{UTILISATION:.0%}", f"38 to 43% in {llama}"),
        ("memory", f"{STATE_BYTES} bytes a parameter; '-' where that does not fit", "ZeRO, arXiv:1910.02054"),
        ("nodes", f"{NODE} ranks; tensor parallelism over one node", llama),
        (
            "bandwidth",
            f"{NVLINK / 1e9:.0f} GB/s in a node, {NETWORK / 1e9:.0f} between nodes, a rank",
            f"H100; {llama}",
        ),
        ("tree, in us", "6.8 + 2 (0.6 (ranks in a node - 1) + 5 log2(nodes))", nccl),
        ("ring, in us", "6.6 + 0.6 or, with several nodes, 1 a rank + 2.7 a node", nccl),
        ("latency factor", f"{factor:g} on both", "2.44 measured, https://github.com/NVIDIA/nccl/issues/1453"),
    ]


class Group(NamedTuple):
    """Ranks that talk to each other."""

    ranks: int
    nodes: int


def group_of(scope: str, strategy: str, ranks: int) -> Group:
    """Return the group of a scope in a job of ``ranks``."""
    nodes = math.ceil(ranks / NODE)
    if strategy != "FSDP2 x TP" or scope == "all":
        return Group(ranks, nodes)
    return Group(NODE, 1) if scope == "tensor" else Group(nodes, nodes)


def latency(kind: str, group: Group) -> float:
    """Return the seconds of a small collective by NCCL's own estimate (see the module's docstring for the source)."""
    local, nodes = group.ranks // group.nodes, group.nodes
    if kind in ("all_reduce", "barrier"):
        return 1e-6 * (6.8 + 2 * (0.6 * (local - 1) + 5.0 * int(math.log2(nodes))))
    within, between = (1.0, 2.7 if local > 1 else 5.0) if nodes > 1 else (0.6, 0.0)
    return 1e-6 * (6.6 + within * (group.ranks - nodes) + between * (nodes - 1))


def seconds(counts: Counts, strategy: str, ranks: int, factor: float) -> float:
    """Return the time of ``counts`` in a job of ``ranks``."""
    total = 0.0
    for call, traffic in counts.items():
        group = group_of(call.scope, strategy, ranks)
        if group.ranks == 1:
            continue
        kind = call.kind.removeprefix("object ")
        # Each rank brings an object of its own; what else is gathered is one tensor, of which each has a share.
        grown = ranks / STRATEGIES[strategy].ranks if kind != call.kind and kind != "broadcast" else 1.0
        passes = (2.0 if kind == "all_reduce" else 1.0) * (group.ranks - 1) / group.ranks
        bandwidth = NETWORK if group.nodes > 1 else NVLINK
        total += traffic.calls * factor * latency(kind, group) + passes * grown * traffic.bytes / bandwidth
    return total


def extrapolated(
    samples: Sequence[tuple[Shape, Counts]], shape: Shape, *, per_gradient: bool = False
) -> dict[Call, Traffic]:
    """Return the counts of a model of ``shape`` from those of four others, by least squares.

    Calls are linear in the number of tensors, and so are the bytes of objects, which name them; other bytes are linear
    in those of tensors, units and parameters. Four models that differ in depth and width tell these apart.

    Args:
        samples: shapes and their counts.
        shape: of the model in question.
        per_gradient: counts are those of a spectrum divided by its gradients, whose bytes are of all parameters.
    """

    def fit(value: Callable[[Traffic], float], terms: Callable[[Shape], tuple[float, ...]]) -> float:
        return max(0.0, _fit([terms(each) for each, _ in samples], [value(each) for each in observed], terms(shape)))

    found = {}
    for call in {call for _, counts in samples for call in counts}:
        observed = [counts.get(call, Traffic(0, 0)) for _, counts in samples]
        size = _per_tensor if call.kind.startswith("object") else _per_parameter if per_gradient else _all_terms
        found[call] = Traffic(fit(lambda each: each.calls, _per_tensor), fit(lambda each: each.bytes, size))
    return found


def _per_tensor(shape: Shape) -> tuple[float, ...]:
    return 1.0, shape.tensors


def _per_parameter(shape: Shape) -> tuple[float, ...]:
    return 1.0, shape.parameters


def _all_terms(shape: Shape) -> tuple[float, ...]:
    return 1.0, shape.tensors, shape.units, shape.parameters


def _fit(rows: Sequence[tuple[float, ...]], values: Sequence[float], at: tuple[float, ...]) -> float:
    matrix = torch.tensor(rows, dtype=torch.float64)
    scale = matrix.abs().amax(0)
    solved = torch.linalg.lstsq(matrix / scale, torch.tensor(values, dtype=torch.float64)[:, None]).solution[:, 0]
    return float((torch.tensor(at, dtype=torch.float64) / scale) @ solved)


def step_seconds(shape: Shape) -> float:
    """Return how long a step takes."""
    return 6 * shape.parameters * TOKENS / (PEAK * UTILISATION)


def projected(
    row: Row, samples: Sequence[tuple[Shape, Added]], strategy: str, model: Model, ranks: int, factor: float
) -> float:
    """Return the seconds that a row's collectives add to a step of a model, averaged over steps."""
    spent = samples[0][1].gradients
    every = row.every if row.every is not None else row.every_seconds / step_seconds(model.shape)
    each = [
        (shape, combined([(1, one.ordinary), (spent / one.gradients / every, one.event), (1 / every, one.flush)]))
        for shape, one in samples
    ]
    counts = extrapolated(each, model.shape, per_gradient=any(one.gradients > 1 for _, one in samples))
    return seconds(counts, strategy, ranks, factor)


def fits(strategy: str, model: Model, ranks: int) -> bool:
    """Say whether weights, gradients and the optimizer's state are in memory."""
    return STATE_BYTES * model.shape.parameters / (ranks if STRATEGIES[strategy].shards else 1) < MEMORY


# --- tables
# -------------------------------------------------------------------------------------------------


def described(counts: Counts) -> str:
    """Say in words what is counted."""
    if not counts:
        return "-"
    calls = [
        f"{traffic.calls:g} {call.kind}{f' ({call.scope})' if call.scope != 'all' else ''}"
        for call, traffic in sorted(counts.items())
    ]
    return f"{', '.join(calls)}; {_size(sum(traffic.bytes for traffic in counts.values()))}"


def _size(number: float) -> str:
    for unit, least in (("GB", 1e9), ("MB", 1e6), ("kB", 1e4)):
        if abs(number) >= least:
            return f"{number / (1e3 if unit == 'kB' else least):.3g} {unit}"
    return f"{number:.0f} B"


def print_table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    print(f"| {' | '.join(columns)} |", "|" + "---|" * len(columns), sep="\n")
    for line in lines:
        print(f"| {' | '.join(line)} |")
    print(flush=True)


Found = dict[str, list[tuple[Shape, Added]]]


def count_all(strategy: str) -> Found:
    """Return by row what it adds at each sampled shape."""
    found: Found = {}
    for shape in SAMPLED_SHAPES:
        by_rank = in_processes(STRATEGIES[strategy].ranks, train_all, strategy, shape)
        runs = {name: over_ranks([one[name] for one in by_rank]) for name in by_rank[0]}
        for row in ROWS:
            if row.name in runs:
                found.setdefault(row.name, []).append((shape, added(row, runs[row.name], runs[""])))
    return found


def print_counts(strategy: str, found: Found) -> None:
    shape = SAMPLED_SHAPES[0]
    ranks = STRATEGIES[strategy].ranks
    print(f"{strategy}, {ranks} processes, a model of {shape.tensors} tensors and {shape.parameters:,} parameters\n")
    lines = []
    for row in ROWS:
        if row.name in found:
            each = found[row.name][0][1]
            name = f"{row.name}: off: {each.failure}" if each.failure else row.name
            event = described(each.event)
            if row.event and each.event:
                spent = f" of {each.gradients:g} gradients" if row.event == "spectrum" else ""
                event = f"{row.event}{spent}: {event}"
            lines.append([name, described(each.ordinary), event, described(each.flush), described(each.outside)])
    print_table(["callback", "ordinary step", "event", "flush", "outside steps"], lines)


def print_costs(strategy: str, found: Found, factor: float) -> None:
    print(f"{strategy}: milliseconds added to a step, averaged over steps, and their share of it\n")
    jobs = [(model, ranks) for model in MODELS for ranks in RANKS]
    costs = {
        row.name: [projected(row, found[row.name], strategy, *job, factor) for job in jobs]
        for row in ROWS
        if row.name in found
    }
    together = [sum(each) for each in zip(*(costs[name] for name in TOGETHER), strict=True)]
    costs[f"together: {', '.join(TOGETHER)}"] = together
    lines = [
        [
            name,
            *(
                _cost(cost, step_seconds(model.shape)) if fits(strategy, model, ranks) else "-"
                for cost, (model, ranks) in zip(each, jobs, strict=True)
            ),
        ]
        for name, each in costs.items()
    ]
    print_table(["callback", *(f"{model.name}, {ranks:,} ranks" for model, ranks in jobs)], lines)


def _cost(cost: float, step: float) -> str:
    return f"{1e3 * cost:.3g} ({100 * cost / step:.2g}%)" if cost else "0"


def print_assumptions(factor: float) -> None:
    print("Assumed\n")
    print_table(["what", "value", "source"], assumptions(factor))
    lines = []
    for ranks in RANKS:
        group = Group(ranks, math.ceil(ranks / NODE))
        times = [f"{1e6 * factor * latency(kind, group):.0f}" for kind in ("all_reduce", "all_gather")]
        lines.append([f"{ranks:,}", *times, *(f"{1e3 * step_seconds(model.shape):,.0f}" for model in MODELS)])
    steps = [f"step of {model.name} (ms)" for model in MODELS]
    print_table(["ranks", "small all_reduce (us)", "small all_gather (us)", *steps], lines)


def main() -> None:
    """Count, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--latency-factor", type=float, default=2.5, help="times NCCL's own estimate")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found: dict[str, Found] = {}
    for strategy in arguments.strategies:
        found[strategy] = count_all(strategy)
        print_counts(strategy, found[strategy])
    print_assumptions(arguments.latency_factor)
    for strategy, rows in found.items():
        print_costs(strategy, rows, arguments.latency_factor)
    if arguments.json:
        arguments.json.write_text(json.dumps(_as_json(found), indent=2) + "\n")


def _as_json(found: Mapping[str, Found]) -> list[dict[str, Any]]:
    return [
        {
            "strategy": strategy,
            "callback": name,
            **shape._asdict(),
            "column": column,
            **call._asdict(),
            **traffic._asdict(),
        }
        for strategy, rows in found.items()
        for name, samples in rows.items()
        for shape, each in samples
        for column in ("ordinary", "event", "flush", "outside")
        for call, traffic in getattr(each, column).items()
    ]


if __name__ == "__main__":
    main()
