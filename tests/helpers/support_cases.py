"""The runs of the support matrix: how a column trains, and what a row's callbacks found there."""

import functools
import logging
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from support.matrix import ROWS, Callbacks, Row
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.utils.data import DataLoader, Dataset

import lightning_gradtools
from helpers.support_reference import Batch, MicroBatch, Plan, Series
from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.reporting.loggers import LoggerAdapter

SGD = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9)
SATURATED = "net.1"  # the activation with one unit that never leaves its flat side
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def network() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
    with torch.no_grad():
        net[0].bias[3] = 20.0
    return net


def global_batches(poison: bool, count: int = 8, size: int = 8) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    data = [
        (torch.randn(size, 4, generator=generator), torch.randn(size, 1, generator=generator)) for _ in range(count)
    ]
    if poison:
        data[3][0][0, 0] = math.nan
    return data


class Batches(Dataset):
    """Batches as they are."""

    def __init__(self, data: Sequence[Batch]) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Batch:
        return self.data[index]


class Fitted(LightningModule):
    """Least squares."""

    def __init__(self, optimizer: Callable[..., torch.optim.Optimizer] = SGD) -> None:
        super().__init__()
        self.net, self.optimizer = network(), optimizer

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return F.mse_loss(self.net(x), y)

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters())


def split(net: nn.Sequential, mesh: Any) -> None:
    parallelize_module(net, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})


class FullySharded(Fitted):
    def configure_model(self) -> None:
        if not isinstance(self.net[0].weight, DTensor):
            for layer in (0, 2, 4):
                fully_shard(self.net[layer], mesh=self.device_mesh["data_parallel"])


class TensorParallel(Fitted):
    def configure_model(self) -> None:
        if not isinstance(self.net[0].weight, DTensor):
            split(self.net, self.device_mesh["tensor_parallel"])


class ShardedBothWays(Fitted):
    def configure_model(self) -> None:
        if not isinstance(self.net[0].weight, DTensor):
            split(self.net, self.device_mesh["tensor_parallel"])
            for layer in (0, 2, 4):
                fully_shard(self.net[layer], mesh=self.device_mesh["data_parallel"])


def model_parallel(data: int, tensor: int) -> dict[str, Any]:
    strategy = ModelParallelStrategy(
        data_parallel_size=data, tensor_parallel_size=tensor, save_distributed_checkpoint=False
    )
    return {"strategy": strategy}


@dataclass(frozen=True, kw_only=True)
class Way:
    """How a column trains.

    Attributes:
        module: makes the module.
        settings: makes the Trainer's arguments.
        callbacks: makes those of other people beside ours.
        shares: ranks with different batches.
        copies: ranks that work on one batch together.
        accumulate: micro-batches of a window.
        optimizer: that of the module.
        network: the name of the network in the module, and where it is among the optimizers' if there are several.
    """

    module: Callable[[], LightningModule] = Fitted
    settings: Callable[[], dict[str, Any]] = dict
    callbacks: Callable[[], list[Callback]] = list
    shares: int = 1
    copies: int = 1
    accumulate: int = 1
    optimizer: Callable[..., torch.optim.Optimizer] = SGD

    def micro_batches(self, poison: bool) -> list[MicroBatch]:
        n = self.shares
        return [[(x[i::n], y[i::n]) for i in range(n)] for x, y in global_batches(poison)]

    def plan(self, poison: bool) -> Plan:
        micro, k = self.micro_batches(poison), self.accumulate
        windows = [micro[i : i + k] for i in range(0, len(micro), k)]
        return Plan(windows=windows, divisors=[k] * len(windows), optimizer=self.optimizer)

    def loader(self, poison: bool) -> Any:
        own = self.rank // self.copies
        return DataLoader(Batches([micro[own] for micro in self.micro_batches(poison)]), batch_size=None)

    @property
    def rank(self) -> int:
        return dist.get_rank() if dist.is_initialized() else 0


WAYS: dict[str, Way] = {
    "single": Way(),
    "DDP": Way(settings=lambda: {"strategy": DDPStrategy()}, shares=2),
    "FSDP2": Way(module=FullySharded, settings=lambda: model_parallel(2, 1), shares=2),
    "TP": Way(module=TensorParallel, settings=lambda: model_parallel(1, 2), copies=2),
    "FSDP2 x TP": Way(module=ShardedBothWays, settings=lambda: model_parallel(2, 2), shares=2, copies=2),
}


def plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def whole(tensor: Tensor) -> Tensor:
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().clone().cpu()


class Spy(Callback):
    """Keeps the weights before the first step and after each, and the learning rate of each."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.rates: Series = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._keep(pl_module)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self.rates[len(self.weights) - 1] = {"lr": float(optimizer.param_groups[0]["lr"])}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if not trainer.fit_loop._should_accumulate():
            self._keep(pl_module)

    def _keep(self, module: LightningModule) -> None:
        self.weights.append({plain(name): whole(each) for name, each in module.named_parameters()})


class Recorder(DummyLogger):
    """A logger that keeps histograms."""

    def __init__(self) -> None:
        super().__init__()
        self.histograms: Series = {}


class RecorderAdapter(LoggerAdapter):
    """Its adapter, found by the logger's name."""

    logger_class = "Recorder"

    def histogram(self, tag: str, found: Any, step: int) -> None:
        values = {"count": sum(found.counts), "sum": found.total, "squares": found.squares}
        entry = self.logger.histograms.setdefault(step, {})
        entry.update({f"{tag}/{name}": value for name, value in values.items()})


@dataclass(kw_only=True)
class Outcome:
    """What a run came to on one rank.

    Attributes:
        weights: before the first step and after each.
        series: what the first callback measured.
        rates: the learning rate of each step.
        error: the ``ArgumentError`` that ended it.
        failure: what switched the first callback off.
        said: warnings.
    """

    weights: list[dict[str, Tensor]] = field(default_factory=list)
    series: Series = field(default_factory=dict)
    rates: Series = field(default_factory=dict)
    error: str = ""
    failure: str | None = None
    said: list[str] = field(default_factory=list)


def make(name: str, arguments: dict[str, Any]) -> Callback:
    if name == "TorchLRScheduler":
        rest = {key: value for key, value in arguments.items() if key != "scheduler"}
        scheduler = functools.partial(getattr(torch.optim.lr_scheduler, arguments["scheduler"]), **rest)
        return lightning_gradtools.TorchLRScheduler(scheduler, interval="step")
    return getattr(lightning_gradtools, name)(**arguments)


def measured(callback: Any, logger: Recorder) -> Series:
    """Return what a callback measured, by step."""
    kind = type(callback).__name__
    if kind == "GradientMonitor":
        found = {record.step: dict(record.values) for record in callback.history}
        for step, values in logger.histograms.items():
            found.setdefault(step, {}).update(values)
        return found
    if kind == "HessianSpectrum":
        return {step: dict(values) for step, values in callback.history}
    if kind == "PathologyDetector":
        return _detected(callback)
    if kind == "GradientCheck":
        return {} if callback.result is None else {0: {"passed": float(callback.result.passed)}}
    return {}


def _detected(detector: Any) -> Series:
    found: Series = {step: {"loss": loss} for step, loss in detector.history.losses}
    for each in detector.history.observations:
        values = found.setdefault(each.step, {})
        for layer in each.layers:
            for quantity in ("gradient", "weight", "update"):
                value = getattr(layer, quantity)
                if value is not None:
                    values[f"layer/{layer.name}/{quantity}"] = value
        for site in each.activations:
            values[f"units/{site.name}/units"] = float(site.units)
            values[f"units/{site.name}/saturated"] = float(site.saturated)
    for event in detector.history.nonfinite:
        found.setdefault(event.step, {})[f"nonfinite/{event.direction}"] = 1.0
    return found


def train(way: Way, callbacks: Callbacks, poison: bool) -> Outcome:
    """Train on this rank, and return what came of it."""
    found = Outcome()
    spy, logger = Spy(), Recorder()
    ours = [make(name, dict(arguments)) for name, arguments in callbacks]
    beside = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "log_every_n_steps": 1, "logger": logger}
    if dist.is_initialized():
        beside |= {"devices": dist.get_world_size(), "use_distributed_sampler": False}
    torch.manual_seed(0)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            run = Trainer(callbacks=[*ours, *way.callbacks(), spy], **{**beside, **way.settings()})
            module = way.module()
            run.fit(module, way.loader(poison))
            for each in ours:
                if type(each).__name__ == "GradientClipping":
                    skipped = run.callback_metrics["clip/skipped_steps"]
                    found.series.setdefault(len(spy.weights) - 2, {})["clip/skipped_steps"] = float(skipped)
                if type(each).__name__ == "LastCheckpoint":
                    found.series[0] = _saved(each.last_model_path)
        except ArgumentError as error:
            found.error = str(error)
    found.weights, found.rates, found.said = spy.weights, spy.rates, [str(each.message) for each in said]
    if ours:
        for step, values in measured(ours[0], logger).items():
            found.series.setdefault(step, {}).update(values)
        found.failure = getattr(ours[0], "failure", None)
    return found


def _saved(path: str) -> dict[str, float]:
    """Return the sums of the weights in a checkpoint."""
    state = torch.load(Path(path), weights_only=False)["state_dict"]
    return {f"checkpoint/{plain(name)}": float(whole(each).double().sum()) for name, each in state.items()}


def key(row: Row) -> str:
    """Return what tells its run from others."""
    return f"{row.callbacks}, {row.poison}"


def walk(column: str) -> dict[str, Outcome]:
    """Make every run of a column on this rank."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    way = WAYS[column]
    found = {"without": train(way, (), False), "without, poisoned": train(way, (), True)}
    for row in ROWS:
        if key(row) not in found and row.callback != "lr_range_test":
            found[key(row)] = train(way, row.callbacks, row.poison)
    return found
