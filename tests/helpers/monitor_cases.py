"""Runs on two ranks that tests/callbacks/gradient_monitor/test_two_ranks.py looks at."""

import logging
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader

from helpers.gradient_cases import FullySharded, whole_weights
from helpers.runs import Regression, batches
from lightning_gradtools.callbacks import GradientMonitor
from lightning_gradtools.callbacks.gradient_monitor.measurements import Measurement
from lightning_gradtools.gradients.noise_scale import NoiseScale

STEPS = 6
EVERYTHING = {"weight_norm": True, "update_ratio": True, "cosine": True, "histograms": True}

STRATEGIES: dict[str, tuple[type[Regression], Callable[[], Any], dict[str, bool]]] = {
    "DDP": (Regression, DDPStrategy, {**EVERYTHING, "noise_scale": True}),
    "FSDP2": (FullySharded, lambda: ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1), EVERYTHING),
}


class Breaks(Measurement):
    """Raises on one rank, at one step, in one of its methods."""

    def __init__(self, method: str, rank: int) -> None:
        self.method, self.rank = method, rank

    def _now(self, method: str, step: int) -> dict[str, Any]:
        if method == self.method and step == 2 and dist.get_rank() == self.rank:
            raise OSError("broken on purpose")
        return {}

    def before_step(self, context):
        return self._now("before_step", context.step)

    def after_step(self, context):
        return self._now("after_step", context.step)

    def before_next(self, step, index, optimizer):
        self._now("before_next", step)

    def scalars(self, found, step):
        return self._now("scalars", step.step)


class BrokenLogger(CSVLogger):
    """A disk that is full at step 2."""

    def log_metrics(self, metrics, step=None):
        if step == 2:
            raise OSError("broken on purpose")


class NoMemory(TorchFunctionMode):
    """Lets no tensor be copied."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.clone:
            raise OSError("broken on purpose")
        return function(*args, **(kwargs or {}))


class RunsOutOfMemory(Callback):
    """Two of them, before the monitor and after it, let no tensor be copied at step 2 by what is between, on rank 1."""

    def __init__(self, mode: NoMemory, begins: bool) -> None:
        self.mode, self.begins = mode, begins

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == 2 and dist.get_rank() == 1:
            if self.begins:
                self.mode.__enter__()
            else:
                self.mode.__exit__(None, None, None)


@dataclass(frozen=True)
class Failure:
    """Where a monitor fails.

    Attributes:
        strategy: of the run.
        method: of a measurement, the logger, or copying.
        rank: on which it fails.
        logged: steps that the other rank has logged before they met.
        logs_per_flush: of the monitor.
        log_every_n_steps: of the monitor.
    """

    strategy: str
    method: str
    rank: int
    logged: int
    logs_per_flush: int = 1
    log_every_n_steps: int = 1


FAILURES = {
    f"{strategy}, {method}, {per_flush} a flush, every {every}": Failure(
        strategy, method, rank, logged, per_flush, every
    )
    for strategy in STRATEGIES
    for method, rank, logged, per_flush, every in (
        ("before_step", 1, 2, 1, 1),
        ("after_step", 0, 2, 1, 1),
        ("before_next", 1, 2, 1, 1),
        ("scalars", 1, 3, 1, 1),
        ("before_step", 1, 2, 2, 1),
        ("logger", 0, 3, 1, 1),
        ("copying", 1, 2, 1, 1),
        ("copying", 1, 1, 1, 2),
    )
    if strategy != "DDP" or every == 1  # what the noise has averaged depends on which steps are logged
}


def fit(module: Any, data: Any, *callbacks: Any, strategy: Any, logger: Any = False) -> list[str]:
    """Train for one epoch, and return what was said of the monitor."""
    run = Trainer(
        accelerator="cpu",
        devices=2,
        strategy=strategy,
        max_epochs=1,
        callbacks=list(callbacks),
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        use_distributed_sampler=False,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run.fit(module, DataLoader(data, batch_size=None))
    return [str(each.message) for each in caught if "GradientMonitor" in str(each.message)]


def share() -> list[Any]:
    """This rank's half of every batch."""
    return [(x[dist.get_rank() :: 2], y[dist.get_rank() :: 2]) for x, y in batches(STEPS)]


def train(
    strategy: str, monitor: GradientMonitor | None, logger: Any = False, copying: NoMemory | None = None
) -> dict[str, Any]:
    module_type, make, _ = STRATEGIES[strategy]
    torch.manual_seed(0)
    module = module_type(optimizer=torch.optim.SGD, momentum=0.9, lr=0.1)
    callbacks = [monitor] if monitor else []
    if copying:
        callbacks = [RunsOutOfMemory(copying, True), *callbacks, RunsOutOfMemory(copying, False)]
    said = fit(module, share(), *callbacks, strategy=make(), logger=logger)
    found = {"weights": whole_weights(module), "warnings": said, "strategy": strategy}
    return {**found, **outcome(monitor)} if monitor else found


def outcome(monitor: GradientMonitor) -> dict[str, Any]:
    history = [(record.step, dict(record.values)) for record in monitor.history]
    state = monitor.state_dict() or {}  # of one that failed nothing is saved
    return {"failure": monitor.failure, "history": history, "averages": state.get("noise")}


class Sized(Regression):
    """Takes batches wrapped so that nobody finds their size."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch.pair if isinstance(batch, Wrapped) else batch, batch_idx)


class Wrapped:
    def __init__(self, pair):
        self.pair = pair


def uneven() -> dict[str, Any]:
    """Rank 1 has a smaller batch at step 1, and one of unknown size at step 3."""
    data = share()
    if dist.get_rank() == 1:
        data[1] = tuple(part[:2] for part in data[1])
        data[3] = Wrapped(data[3])
    torch.manual_seed(0)
    monitor = GradientMonitor(noise_scale=True, logs_per_flush=2)
    said = fit(Sized(optimizer=torch.optim.SGD, lr=0.0), data, monitor, strategy=DDPStrategy())
    return {**outcome(monitor), "warnings": said}


def even_steps() -> dict[str, float]:
    """The averages after steps 0 and 2 alone, by the formula, from gradients of one process."""
    torch.manual_seed(0)
    module, averages = Regression(), NoiseScale()

    def squared(x: torch.Tensor, y: torch.Tensor) -> float:
        loss = (module.net(x) - y).square().mean()
        return sum(float(g.double().square().sum()) for g in torch.autograd.grad(loss, list(module.parameters())))

    for x, y in (batches(STEPS)[0], batches(STEPS)[2]):
        small = (squared(x[::2], y[::2]) + squared(x[1::2], y[1::2])) / 2
        averages.update(small, 4, squared(x, y), 8)
    return asdict(averages)


class Crashes(Regression):
    def training_step(self, batch, batch_idx):
        if batch_idx == 3:
            raise RuntimeError("crash")
        return super().training_step(batch, batch_idx)


def crash() -> dict[str, Any]:
    """Both ranks crash, rank 1 much later: rank 0 must not wait for it."""
    monitor = GradientMonitor(noise_scale=True, logs_per_flush=100)
    try:
        fit(Crashes(optimizer=torch.optim.SGD, lr=0.0), share(), monitor, strategy=DDPStrategy())
    except RuntimeError:
        return outcome(monitor)
    raise AssertionError("it should have crashed")


def two_ranks() -> dict[str, Any]:
    """Run everything on this rank of two."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    found: dict[str, Any] = {}
    for strategy, (_, _, options) in STRATEGIES.items():
        found[strategy] = train(strategy, GradientMonitor(**options))
        found[strategy]["weights without"] = train(strategy, None)["weights"]
    for case, failure in FAILURES.items():
        options = {**STRATEGIES[failure.strategy][2], "logs_per_flush": failure.logs_per_flush}
        own = [Breaks(failure.method, failure.rank)]
        monitor = GradientMonitor(failure.log_every_n_steps, **options, measurements=own)
        logger = BrokenLogger("full") if failure.method == "logger" else False
        copying = NoMemory() if failure.method == "copying" else None
        found[case] = train(failure.strategy, monitor, logger, copying)
    found["alone"] = train("DDP", GradientMonitor(measurements=[Breaks("before_step", 1)]))
    found["uneven"], found["only the even steps"] = uneven(), even_steps()
    found["crash"] = crash()
    return found
