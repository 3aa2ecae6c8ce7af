"""The runs that tests/test_distributed.py compares between one process and two."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from helpers.runs import Regression, batches, loader, trainer
from lightning_gradtools.callbacks import GradientClipping, GradientMonitor

CLIPPING: dict[str, dict[str, Any]] = {
    "norm": {"max_norm": 0.1},
    "value": {"clip_value": 0.02},
    "unit": {"adaptive": 0.01},
    "history": {"zscore": 0.1, "max_norm": 0.2, "warmup_steps": 2},
}


class FullySharded(Regression):
    def configure_model(self) -> None:
        if not isinstance(self.net[0].weight, DTensor):
            for layer in (0, 2, 4):
                fully_shard(self.net[layer], mesh=self.device_mesh["data_parallel"])


class PartlySharded(Regression):
    """The first two layers are DTensor, the last one is plain."""

    def configure_model(self) -> None:
        if not isinstance(self.net[0].weight, DTensor):
            for layer in (0, 2):
                fully_shard(self.net[layer], mesh=self.device_mesh["data_parallel"])


class TensorParallel(Regression):
    def configure_model(self) -> None:
        if not isinstance(self.net[0].weight, DTensor):
            plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
            parallelize_module(self.net, self.device_mesh["tensor_parallel"], plan)


class ShardedBothWays(Regression):
    """FSDP2 over tensor parallelism, the last layer over FSDP2's dimension of the mesh alone."""

    def configure_model(self) -> None:
        if not isinstance(self.net[0].weight, DTensor):
            plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
            parallelize_module(self.net, self.device_mesh["tensor_parallel"], plan)
            for layer in (0, 2, 4):
                fully_shard(self.net[layer], mesh=self.device_mesh["data_parallel"])


class HybridSharded(Regression):
    """Shards within each pair of ranks, copies between pairs; the last layer is sharded over all four."""

    def configure_model(self) -> None:
        if not isinstance(self.net[0].weight, DTensor):
            pairs = init_device_mesh("cpu", (2, 2), mesh_dim_names=("copies", "shards"))
            for layer in (0, 2):
                fully_shard(self.net[layer], mesh=pairs)
            fully_shard(self.net[4], mesh=self.device_mesh["data_parallel"])


def sharded(data: int, tensor: int) -> dict[str, Any]:
    return {"strategy": ModelParallelStrategy(data_parallel_size=data, tensor_parallel_size=tensor)}


STRATEGIES: dict[str, tuple[type[Regression], Callable[[], dict[str, Any]]]] = {
    "DDP": (Regression, lambda: {"strategy": DDPStrategy()}),
    "FSDP2": (FullySharded, lambda: sharded(2, 1)),
    "FSDP2 and plain": (PartlySharded, lambda: sharded(2, 1)),
    "TP and plain": (TensorParallel, lambda: sharded(1, 2)),
}
ON_FOUR: dict[str, tuple[type[Regression], Callable[[], dict[str, Any]]]] = {
    "FSDP2 x TP": (ShardedBothWays, lambda: sharded(2, 2)),
    "HSDP": (HybridSharded, lambda: sharded(4, 1)),
}


def whole_weights(module: torch.nn.Module) -> torch.Tensor:
    parts = [p.full_tensor() if isinstance(p, DTensor) else p for p in module.parameters()]
    return torch.cat([part.detach().reshape(-1) for part in parts])


def train(module_type: type[Regression], *callbacks: Any, poison: int | None = None, **settings: Any) -> torch.Tensor:
    """Return the weights after four batches of 8, halved between ranks of DDP; sample ``poison`` is NaN."""
    torch.manual_seed(0)
    module = module_type(optimizer=torch.optim.SGD, momentum=0.9, lr=0.1)
    data = batches(4)
    if poison is not None:
        data[poison // 8][0][poison % 8] = math.nan
    if isinstance(settings.get("strategy"), DDPStrategy):
        rank = dist.get_rank()
        data = [(x[rank::2], y[rank::2]) for x, y in data]
    elif "accumulate_grad_batches" in settings:
        data = [(x[half::2], y[half::2]) for x, y in data for half in (0, 1)]
    run = trainer(*callbacks, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run.fit(module, loader(data))
    return whole_weights(module)


def measure(module_type: type[Regression], settings: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run every case under one strategy; ``settings()`` makes the Trainer's arguments anew."""
    found: dict[str, Any] = {}
    for p in (1, 2, math.inf):
        monitor = GradientMonitor(norm_type=p)
        found[f"weights watched, p={p}"] = train(module_type, monitor, **settings())
        found[f"norms, p={p}"] = [record.values for record in monitor.history]
    found["weights"] = train(module_type, **settings())
    for name, arguments in CLIPPING.items():
        monitor = GradientMonitor()
        weights = train(module_type, monitor, GradientClipping(**arguments), **settings())
        found[f"clipped by {name}"] = weights, [record.values for record in monitor.history]
    everything = GradientMonitor(weight_norm=True, update_ratio=True, cosine=True, histograms=True)
    train(module_type, everything, **settings())
    found["everything"] = [record.values for record in everything.history]
    clipping = GradientClipping(0.1)
    found["one NaN skipped"] = train(module_type, clipping, poison=9, **settings())
    found["skips"] = clipping.state_dict()["tallies"]["0"]["skipped_steps"]
    return found


def all_strategies() -> dict[str, Any]:
    """Run everything on this rank of two, or of four."""
    shared = {"devices": dist.get_world_size(), "use_distributed_sampler": False}
    chosen = STRATEGIES if dist.get_world_size() == 2 else ON_FOUR
    found = {
        name: measure(module_type, lambda settings=settings: {**shared, **settings()})
        for name, (module_type, settings) in chosen.items()
    }
    if "DDP" in found:
        found["DDP"]["noise"] = noise(strategy=DDPStrategy(), **shared)
    return found


def noise(**settings: Any) -> list[dict[str, float]]:
    """Measure the noise scale on half batches: one a rank, or one after the other in one process."""
    monitor = GradientMonitor(noise_scale=True, top_k=0)
    train(Regression, monitor, **settings)
    return [dict(record.values) for record in monitor.history]


def single_process() -> dict[str, Any]:
    return {**measure(Regression, dict), "noise": noise(accumulate_grad_batches=2)}
