"""The runs of the support matrix: how a column trains, and what a row's callbacks found there."""

import functools
import logging
import math
import multiprocessing
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from support.matrix import ROWS, Callbacks, Row
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset, IterableDataset

import lightning_gradtools
from helpers.launcher import launch
from helpers.support_reference import Batch, MicroBatch, Plan, Series
from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.reporting.loggers import LoggerAdapter

SGD = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9)
# A longer memory of clipped gradients is chaotic: roundings grow a millionfold within eight steps.
LBFGS = functools.partial(torch.optim.LBFGS, lr=0.1, max_iter=2, history_size=1)
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def network() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
    with torch.no_grad():
        net[0].bias[3] = 20.0  # a unit that never leaves its flat side
    return net


def global_batches(poison: bool = False, count: int = 8, size: int = 8) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    data = [
        (torch.randn(size, 4, generator=generator), torch.randn(size, 1, generator=generator)) for _ in range(count)
    ]
    if poison:
        data[1][0][0, 0] = math.nan
    return data


# --- modules
# ---------------------------------------------------------------------------------------------


class Fitted(LightningModule):
    """Least squares."""

    def __init__(self, optimizer: Callable[..., torch.optim.Optimizer] = SGD) -> None:
        super().__init__()
        self.net, self.optimizer = network(), optimizer

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return F.mse_loss(self.forward(x), y)

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters())


class WithUnused(Fitted):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(2, 2)


class Compiled(Fitted):
    def configure_model(self) -> None:
        if isinstance(self.net, nn.Sequential):
            self.net = torch.compile(self.net, backend="aot_eager")


class Checkpointed(Fitted):
    """Its second layer is run again in the backward pass."""

    reentrant = False

    def forward(self, x: Tensor) -> Tensor:
        net = self.net
        return net[4](checkpoint(net[2:4], net[1](net[0](x)), use_reentrant=self.reentrant))


class CheckpointedReentrant(Checkpointed):
    reentrant = True


class Manual(Fitted):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.example_input_array = global_batches()[0][0]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


class TwoOptimizers(Manual):
    def __init__(self) -> None:
        super().__init__()
        self.other = network()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) + self.other(x)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        for net, optimizer in zip((self.net, self.other), self.optimizers(), strict=True):
            optimizer.zero_grad()
            self.manual_backward(F.mse_loss(net(x), y))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [self.optimizer(net.parameters()) for net in (self.net, self.other)]


class Combined(Fitted):
    """Takes its inputs and its targets from two loaders."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step((batch["x"], batch["y"]), batch_idx)


class FullySharded(Fitted):
    options: dict[str, Any] = {}  # noqa: RUF012 (of fully_shard)

    def configure_model(self) -> None:
        if not isinstance(self.net[0].weight, DTensor):
            for layer in (0, 2, 4):
                fully_shard(self.net[layer], mesh=self.device_mesh["data_parallel"], **self.options)


class InBfloat16(FullySharded):
    options = {"mp_policy": MixedPrecisionPolicy(param_dtype=torch.bfloat16, output_dtype=torch.float32)}  # noqa: RUF012


class Offloaded(FullySharded):
    options = {"offload_policy": CPUOffloadPolicy(pin_memory=False)}  # noqa: RUF012


class ShardedAndCheckpointed(FullySharded, Checkpointed):
    pass


class ShardedAndCompiled(FullySharded):
    def configure_model(self) -> None:
        if isinstance(self.net, nn.Sequential):
            super().configure_model()
            self.net = torch.compile(self.net, backend="aot_eager")


def split(net: nn.Sequential, mesh: Any) -> None:
    parallelize_module(net, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})


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


class HybridSharded(Fitted):
    """Shards within each pair of ranks, copies between pairs."""

    def configure_model(self) -> None:
        if not isinstance(self.net[0].weight, DTensor):
            pairs = init_device_mesh("cpu", (2, 2), mesh_dim_names=("copies", "shards"))
            for layer in (0, 2, 4):
                fully_shard(self.net[layer], mesh=pairs)


# --- columns
# ---------------------------------------------------------------------------------------------


class Batches(Dataset):
    """Batches as they are."""

    def __init__(self, data: Sequence[Any]) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        return self.data[index]


class Stream(IterableDataset):
    """Batches without a length."""

    def __init__(self, data: Sequence[Batch]) -> None:
        self.data = data

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.data)


def plain_loader(data: Sequence[Any]) -> DataLoader:
    return DataLoader(Batches(data), batch_size=None)


def streamed(data: Sequence[Batch]) -> DataLoader:
    return DataLoader(Stream(data), batch_size=None)


def combined(data: Sequence[Batch]) -> CombinedLoader:
    x, y = zip(*data, strict=True)
    return CombinedLoader({"x": plain_loader(x), "y": plain_loader(y)}, "min_size")


@dataclass(frozen=True, kw_only=True)
class Way:
    """How a column trains.

    Attributes:
        module: makes the module.
        settings: makes the Trainer's arguments.
        beside: makes other people's callbacks.
        load: makes a loader of the batches of this rank.
        shares: ranks with different batches.
        copies: ranks that work on one batch together.
        windows: number of micro-batches of a step, by epoch.
        batches: number of batches of an epoch.
        uneven: whether the last batch has fewer samples.
        optimizer: of the module.
        networks: names of the networks of the module, one for each optimizer.
        scaler: whether a loss scaler skips steps whose gradients are not finite.
        foreign_rates: whether another callback has the learning rate from the second epoch on.
        ranks_before: number of ranks of the first epoch, which another run made that this goes on from; 0 if none did.
        unused: whether the module has a layer that its forward pass does not call.
        averages: whether another callback puts averages in the place of the weights at the end.
        dtype: of the weights.
    """

    module: Callable[[], LightningModule] = Fitted
    settings: Callable[[], dict[str, Any]] = dict
    beside: Callable[[], list[Callback]] = list
    load: Callable[[Sequence[Batch]], Any] = plain_loader
    shares: int = 1
    copies: int = 1
    windows: tuple[int, ...] = (1,)
    batches: int = 8
    uneven: bool = False
    optimizer: Callable[..., torch.optim.Optimizer] = SGD
    networks: tuple[str, ...] = ("net",)
    scaler: bool = False
    foreign_rates: bool = False
    ranks_before: int = 0
    unused: bool = False
    averages: bool = False
    dtype: torch.dtype = torch.float32

    def micro_batches(self, poison: bool, shares: int) -> list[MicroBatch]:
        """Return all micro-batches of an epoch, each a share for every rank with a batch of its own."""
        data = global_batches(poison)
        if self.uneven:
            data[-1] = data[-1][0][:5], data[-1][1][:5]
        return [[(x[i::shares], y[i::shares]) for i in range(shares)] for x, y in data]

    def plan(self, poison: bool) -> Plan:
        windows: list[tuple[list[MicroBatch], int]] = []
        ends: list[int] = []
        for epoch, k in enumerate(self.windows):
            shares = self.ranks_before if self.ranks_before and not epoch else self.shares
            micro = self.micro_batches(poison, shares)[: self.batches]
            windows += [(micro[i : i + k], k) for i in range(0, len(micro), k)]
            ends.append(len(windows) - 1)
        return Plan(
            windows=[window for window, _ in windows],
            divisors=[k for _, k in windows],
            optimizer=self.optimizer,
            ends=ends,
            scaler=self.scaler,
        )


def ddp(**options: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {"strategy": DDPStrategy(**options)}


def model_parallel(data: int, tensor: int) -> Callable[[], dict[str, Any]]:
    return lambda: {
        "strategy": ModelParallelStrategy(
            data_parallel_size=data, tensor_parallel_size=tensor, save_distributed_checkpoint=False
        )
    }


def scaled() -> dict[str, Any]:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=1000)
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]}


def averaging() -> list[Callback]:
    return [lightning_callbacks.EMAWeightAveraging(decay=0.9)]


FSDP2 = Way(module=FullySharded, settings=model_parallel(2, 1), shares=2)
WAYS: dict[str, Way] = {
    "single": Way(),
    "bf16-mixed": Way(settings=lambda: {"precision": "bf16-mixed"}),
    "bf16-true": Way(settings=lambda: {"precision": "bf16-true"}, dtype=torch.bfloat16),
    "16-mixed": Way(settings=scaled, scaler=True),
    "64-true": Way(settings=lambda: {"precision": "64-true"}, dtype=torch.float64),
    "compiled before": Way(module=lambda: torch.compile(Fitted(), backend="aot_eager")),
    "compiled inside": Way(module=Compiled),
    "accumulation": Way(settings=lambda: {"accumulate_grad_batches": 3}, windows=(3,)),
    "checkpointing": Way(module=Checkpointed),
    "reentrant checkpointing": Way(module=CheckpointedReentrant),
    "manual": Way(module=Manual),
    "two optimizers": Way(module=TwoOptimizers, networks=("net", "other")),
    "LBFGS": Way(
        module=lambda: Fitted(LBFGS),
        settings=lambda: {"precision": "64-true"},  # it makes differences of gradients large
        optimizer=LBFGS,
        dtype=torch.float64,
    ),
    "uneven": Way(uneven=True),
    "barebones": Way(settings=lambda: {"barebones": True}),
    "fast_dev_run": Way(settings=lambda: {"fast_dev_run": 3}, batches=3),
    "overfit_batches": Way(settings=lambda: {"overfit_batches": 2, "max_epochs": 3}, windows=(1, 1, 1), batches=2),
    "no length": Way(load=streamed),
    "CombinedLoader": Way(module=Combined, load=combined),
    "SWA": Way(
        settings=lambda: {"max_epochs": 2},
        beside=lambda: [lightning_callbacks.StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=2)],
        windows=(1, 1),
        foreign_rates=True,
        averages=True,
    ),
    "EMA": Way(beside=averaging, averages=True),
    "accumulation scheduler": Way(
        settings=lambda: {"max_epochs": 2},
        beside=lambda: [lightning_callbacks.GradientAccumulationScheduler({0: 1, 1: 2})],
        windows=(1, 2),
    ),
    "DDP": Way(settings=ddp(), shares=2),
    "DDP, unused": Way(module=WithUnused, settings=ddp(find_unused_parameters=True), shares=2, unused=True),
    "DDP, static graph": Way(settings=ddp(static_graph=True), shares=2),
    "DDP, bucket view": Way(settings=ddp(gradient_as_bucket_view=True), shares=2),
    "DDP, fp16 hook": Way(settings=ddp(ddp_comm_hook=fp16_compress_hook), shares=2),
    "DDP, uneven": Way(settings=ddp(), shares=2, uneven=True),
    "DDP, accumulation": Way(settings=lambda: {**ddp()(), "accumulate_grad_batches": 3}, shares=2, windows=(3,)),
    "ddp_fork": Way(settings=lambda: {"strategy": "ddp_fork"}, shares=2),
    "ddp_spawn": Way(settings=lambda: {"strategy": "ddp_spawn"}, shares=2),
    "FSDP2": FSDP2,
    "FSDP2, bf16": replace(FSDP2, module=InBfloat16),
    "FSDP2, offload": replace(FSDP2, module=Offloaded),
    "FSDP2, checkpointing": replace(FSDP2, module=ShardedAndCheckpointed),
    "FSDP2, compiled": replace(FSDP2, module=ShardedAndCompiled),
    "TP": Way(module=TensorParallel, settings=model_parallel(1, 2), copies=2),
    "FSDP2 x TP": Way(module=ShardedBothWays, settings=model_parallel(2, 2), shares=2, copies=2),
    "resumed, 1 to 2": Way(settings=lambda: {**ddp()(), "max_epochs": 2}, shares=2, windows=(1, 1), ranks_before=1),
    "resumed, 2 to 1": Way(settings=lambda: {"max_epochs": 2}, windows=(1, 1), ranks_before=2),
    "HSDP": Way(module=HybridSharded, settings=model_parallel(4, 1), shares=4),
}
SCHEDULES = ("WarmupCosineSchedule", "TorchLRScheduler")
STAND_INS = {"FSDP1": FSDPStrategy, "DeepSpeed": DeepSpeedStrategy}  # to make a whole one takes GPUs
STARTED_BY_LIGHTNING = {"ddp_fork", "ddp_spawn"}


# --- what is kept of a run
# ---------------------------------------------------------------------------------------------


def plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def whole(tensor: Tensor) -> Tensor:
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().clone().cpu()


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {plain(name): whole(each) for name, each in module.named_parameters()}


def sums(tensors: dict[str, Tensor]) -> dict[str, float]:
    return {f"checkpoint/{name}": float(each.double().sum()) for name, each in tensors.items()}


class Spy(Callback):
    """Keeps the weights before the first step and after each, and the learning rate of each.

    Args:
        outcome: where to, and what the callbacks found, once the run is over.
        callbacks: whose measurements to keep.
        logger: the run's.
        folder: for the outcome of each rank, where Lightning starts them; or None.
    """

    def __init__(self, outcome: "Outcome", callbacks: Sequence[Any], folder: str | None) -> None:
        self.outcome, self.callbacks, self.folder = outcome, callbacks, folder

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._keep(pl_module)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self.outcome.rates[len(self.outcome.weights) - 1] = {"lr": float(optimizer.param_groups[0]["lr"])}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if not trainer.fit_loop._should_accumulate():
            number = len(self.outcome.weights) - 1
            if number in self.outcome.rates:
                self.outcome.rates[number]["after"] = float(trainer.optimizers[0].param_groups[0]["lr"])
            self._keep(pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step = len(self.outcome.weights) - 2
        self.outcome.final = sums(weights(pl_module))
        self.outcome.series = measured(self.callbacks, trainer.logger)
        for name, value in trainer.callback_metrics.items():
            if name.startswith("clip/skipped_steps"):
                self.outcome.series.setdefault(step, {})[name] = float(value)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.outcome.failure = next((getattr(each, "failure", None) for each in self.callbacks), None)
        for each in self.callbacks:
            if type(each).__name__ == "LastCheckpoint" and each.last_model_path:
                self.outcome.series[0] = _saved(each.last_model_path)
        if self.folder is not None:
            torch.save(self.outcome, f"{self.folder}/{trainer.global_rank}")

    def _keep(self, module: LightningModule) -> None:
        self.outcome.weights.append(weights(module))


class Recorder(Logger):
    """A logger that keeps histograms."""

    name, version = "recorder", 0

    def __init__(self) -> None:
        super().__init__()
        self.histograms: Series = {}

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        pass

    def log_hyperparams(self, *_: Any) -> None:
        pass


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
        rates: the learning rate of each step, and that after it.
        final: sums of the weights when the fit ended.
        error: what was refused.
        failure: what switched the first callback off.
        said: warnings.
    """

    weights: list[dict[str, Tensor]] = field(default_factory=list)
    series: Series = field(default_factory=dict)
    rates: Series = field(default_factory=dict)
    final: dict[str, float] = field(default_factory=dict)
    error: str = ""
    failure: str | None = None
    said: list[str] = field(default_factory=list)


def make(name: str, arguments: dict[str, Any]) -> Callback:
    if name == "TorchLRScheduler":
        rest = {key: value for key, value in arguments.items() if key != "scheduler"}
        scheduler = functools.partial(getattr(torch.optim.lr_scheduler, arguments["scheduler"]), **rest)
        return lightning_gradtools.TorchLRScheduler(scheduler, interval="step")
    return getattr(lightning_gradtools, name)(**arguments)


def measured(callbacks: Sequence[Any], logger: Any) -> Series:
    """Return what the first of the callbacks measured, by step."""
    if not callbacks:
        return {}
    callback, found = callbacks[0], {}
    kind = type(callback).__name__
    if kind == "GradientMonitor":
        found = {record.step: dict(record.values) for record in callback.history}
        for step, values in logger.histograms.items() if isinstance(logger, Recorder) else ():
            found.setdefault(step, {}).update(values)
    elif kind == "HessianSpectrum":
        found = {step: dict(values) for step, values in callback.history}
    elif kind == "PathologyDetector":
        found = _detected(callback)
    elif kind == "GradientCheck" and callback.result is not None:
        found = {0: {"passed": float(callback.result.passed)}}
    return found


def _detected(detector: Any) -> Series:
    found: Series = {step: {"loss": loss} for step, loss in detector.history.losses}
    for each in detector.history.observations:
        values = found.setdefault(each.step, {})
        for layer in each.layers:
            if layer.gradient is not None:
                for quantity in ("gradient", "weight", "update"):
                    values[f"layer/{layer.name}/{quantity}"] = getattr(layer, quantity)
        for site in each.activations:
            values[f"units/{site.name}/units"] = float(site.units)
            values[f"units/{site.name}/saturated"] = float(site.saturated)
    for event in detector.history.nonfinite[:1]:
        causes = {} if event.direction == "unknown" else {f"nonfinite/{event.direction}": 1.0}
        found.setdefault(event.step, {}).update({"nonfinite/step": 1.0} | causes)
    return found


def _saved(path: str) -> dict[str, float]:
    """Return the sums of the weights in a checkpoint."""
    found = torch.load(Path(path), weights_only=False)
    state = found.get("current_model_state", found["state_dict"])  # where the others are averages
    return sums({plain(name): whole(each) for name, each in state.items()})


# --- runs
# ---------------------------------------------------------------------------------------------


def trainer_settings(way: Way, *, forks: bool = False) -> dict[str, Any]:
    settings: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "log_every_n_steps": 1}
    settings["logger"] = Recorder()
    if dist.is_initialized() or forks:
        settings |= {"devices": dist.get_world_size() if dist.is_initialized() else 2, "use_distributed_sampler": False}
    settings |= way.settings()
    if settings.get("barebones"):
        del settings["log_every_n_steps"], settings["logger"]
    return settings


class FirstEpoch(Callback):
    """Ends training after the first epoch."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = True


def train(
    way: Way,
    callbacks: Callbacks,
    poison: bool,
    folder: str | None = None,
    save: Path | None = None,
    resume: Path | None = None,
) -> Outcome:
    """Train on this rank, and return what came of it.

    Args:
        way: of the column.
        callbacks: of the row.
        poison: the data, or not.
        folder: where ranks that Lightning starts leave what they have.
        save: where to save after the first epoch, with which it ends then.
        resume: what to go on from.
    """
    found = Outcome()
    ours = [make(name, dict(arguments)) for name, arguments in callbacks]
    settings = trainer_settings(way, forks=folder is not None)
    first = [] if save is None else [FirstEpoch(), lightning_callbacks.ModelCheckpoint(save.parent, save.stem)]
    torch.manual_seed(0)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            run = Trainer(callbacks=[*ours, *way.beside(), Spy(found, ours, folder), *first], **settings)
            module = way.module()
            kept = {} if resume is None else {"ckpt_path": resume, "weights_only": False}
            run.fit(module, datamodule=Loading(way, poison), **kept)
        except (ArgumentError, MisconfigurationException) as error:
            found.error = str(error)
    found.said = [str(each.message) for each in said]
    return found


class Loading(LightningDataModule):
    """Loads on the rank where it is asked."""

    def __init__(self, way: Way, poison: bool) -> None:
        super().__init__()
        self.load, self.copies, self.batches = way.load, way.copies, way.micro_batches(poison, way.shares)

    def train_dataloader(self) -> Any:
        rank = dist.get_rank() if dist.is_initialized() else 0
        return self.load([micro[rank // self.copies] for micro in self.batches])


def range_test(way: Way, *, forks: bool = False) -> Outcome:
    """Make a range test, and return its losses, its rates, and the weights before it and after."""
    found = Outcome()
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            run, module = Trainer(callbacks=way.beside(), **trainer_settings(way, forks=forks)), way.module()
            before = weights(module)
            result = lightning_gradtools.lr_range_test(run, module, Loading(way, False), num_steps=20, max_lr=0.1)
            after = weights(module)
            found.weights = [{name: each.to(after[name].dtype) for name, each in before.items()}, after]
            found.rates = {number: {"lr": rate} for number, rate in enumerate(result.rates)}
            found.series = {number: {"loss": loss} for number, loss in enumerate(result.losses)}
        except Exception as error:
            found.error = str(error)
    return found


def key(row: Row) -> str:
    """Return what tells its run from others."""
    return f"{row.callbacks}, {row.poison}"


BARE = {False: "without", True: "without, poisoned"}


def _runs() -> dict[str, tuple[Callbacks, bool]]:
    """Return callbacks and poison of all runs of a column, by their keys."""
    bare = {name: ((), poison) for poison, name in BARE.items()}
    return bare | {key(row): (row.callbacks, row.poison) for row in ROWS if row.callback != "lr_range_test"}


def walk_before(column: str, folder: Path) -> None:
    """Make the first epoch of every run of a column that goes on from it, and save it."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    way = WAYS[column]
    before = way.ranks_before
    start = replace(way, shares=before, settings=lambda: {**(ddp()() if before > 1 else {}), "max_epochs": 2})
    for number, run in enumerate(_runs().values()):
        train(start, *run, save=folder / f"{number}.ckpt")


def walk(column: str, folder: Path) -> dict[str, Outcome]:
    """Make every run of a column on this rank; where it goes on from others, they are in ``folder``."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if column in STAND_INS:
        found = {name: stood_in(STAND_INS[column], *run) for name, run in _runs().items()}
        return found | {key(row): stood_in(STAND_INS[column], None) for row in ROWS if row.callback == "lr_range_test"}
    found = {}
    for number, (name, run) in enumerate(_runs().items()):
        resume = folder / f"{number}.ckpt" if WAYS[column].ranks_before else None
        found[name] = train(WAYS[column], *run, resume=resume)
        if column in ("compiled before", "compiled inside", "FSDP2, compiled"):
            torch.compiler.reset()
    found |= {key(row): range_test(WAYS[column]) for row in ROWS if row.callback == "lr_range_test"}
    return found


def stood_in(strategy: type, callbacks: Callbacks | None, poison: bool = False) -> Outcome:
    """Return what callbacks say at the start of a fit, of a strategy that cannot be had here; or a range test."""
    found, module = Outcome(), Fitted()
    run = Trainer(accelerator="cpu", devices=1, max_epochs=1)
    run._accelerator_connector.strategy = fake = strategy.__new__(strategy)
    fake._optimizers, fake.lr_scheduler_configs = [module.configure_optimizers()], []
    try:
        if callbacks is None:
            lightning_gradtools.lr_range_test(run, module)
        else:
            for name, arguments in callbacks:
                make(name, dict(arguments)).on_fit_start(run, module)
    except ArgumentError as error:
        found.error = str(error)
    return found


def walk_started_by_lightning(column: str, result: str) -> None:
    """Make every run of a column whose ranks Lightning starts, from a process that has not computed anything."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    ranks: list[dict[str, Outcome]] = [{}, {}]
    for name, run in _runs().items():
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            error = train(WAYS[column], *run, folder=folder)
            for rank, found in enumerate(ranks):
                path = Path(folder) / str(rank)
                found[name] = torch.load(path, weights_only=False) if path.exists() else error
            os.chdir("/")
    for row in ROWS:
        if row.callback == "lr_range_test":
            tested = range_test(WAYS[column], forks=True)
            for found in ranks:
                found[key(row)] = tested
    torch.save(ranks, result)


def walked(column: str, ranks: int, folder: Path) -> list[dict[str, Outcome]]:
    """Return what every run of a column came to, on each rank."""
    if column in STARTED_BY_LIGHTNING:
        context = multiprocessing.get_context("forkserver")
        process = context.Process(target=walk_started_by_lightning, args=(column, str(folder / "result")))
        process.start()
        process.join()
        found: list[dict[str, Outcome]] = torch.load(folder / "result", weights_only=False)
        return found
    before = 0 if column in STAND_INS else WAYS[column].ranks_before
    if before == 1:
        walk_before(column, folder)
    elif before:
        launch(walk_before, column, folder, world_size=before)
    return [walk(column, folder)] if ranks == 1 else launch(walk, column, folder, world_size=ranks)
