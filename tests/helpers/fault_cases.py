"""Every guarded call made to raise in turn; used by tests/test_fault_injection.py on one rank and on one of two."""

import logging
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.modules import module as torch_module
from torch.overrides import _get_current_function_mode_stack

from helpers.runs import Regression, batches, loader, trainer
from lightning_gradtools._lightning import fail_safe
from lightning_gradtools._lightning.module import Patch
from lightning_gradtools.callbacks import (
    GradientCheck,
    GradientClipping,
    GradientMonitor,
    HessianSpectrum,
    PathologyDetector,
    WarmupCosineSchedule,
)
from lightning_gradtools.distributed import on_this_rank

OBSERVERS: dict[str, Callable[[], Callback]] = {
    "GradientMonitor": lambda: GradientMonitor(
        weight_norm=True, update_ratio=True, cosine=True, noise_scale=True, histograms=True, progress_bar=True
    ),
    "PathologyDetector": lambda: PathologyDetector(every_n_steps=2, on_warning="log", on_critical="log"),
    "HessianSpectrum": lambda: HessianSpectrum(every_n_steps=2, top_k=1, density=20, rtol=0.1),
    "GradientCheck": lambda: GradientCheck(on_failure="warn"),
    "GradientClipping": lambda: GradientClipping(max_norm=1e6),
    "WarmupCosineSchedule": lambda: WarmupCosineSchedule(warmup_steps=0, min_lr_ratio=1.0),
}


@dataclass(frozen=True)
class Site:
    """A guarded call, and whether it raises before or after it has done its work."""

    guard: str
    where: str
    after: bool


class InjectedError(Exception):
    """The planted fault."""


def attempt_raising(site: Site | None, seen: set[tuple[str, str]]) -> Callable[..., Any]:
    """Return what to put in the place of ``fail_safe.attempt``: it notes every call, and raises at ``site``."""

    def attempt(name: str, where: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        seen.add((name, where))
        hit = site is not None and (site.guard, site.where) == (name, where)
        if hit and not site.after:
            raise InjectedError(where)
        result = function(*args, **kwargs)
        if hit:
            raise InjectedError(where)
        return result

    return attempt


@contextmanager
def injected(site: Site | None, seen: set[tuple[str, str]]) -> Iterator[None]:
    original = fail_safe.attempt
    fail_safe.attempt = attempt_raising(site, seen)
    try:
        yield
    finally:
        fail_safe.attempt = original


def left_behind(module: LightningModule, run: Trainer, before: set[str]) -> list[str]:
    """Say what of ours a fit has left on the module, the strategy or torch."""
    found = [f"__dict__[{name!r}]" for name in vars(module).keys() - before if not name.startswith("_")]
    found += [f"strategy.{name}" for name, value in vars(run.strategy).items() if isinstance(value, Patch)]
    for name, each in module.named_modules():
        hooks = [*each._forward_hooks, *each._forward_pre_hooks, *each._backward_hooks, *each._backward_pre_hooks]
        found += [f"hook on {name}"] * len(hooks)
        found += [f"{name}.{key}" for key, value in vars(each).items() if isinstance(value, Patch)]
    found += [f"hook on {name}" for name, each in module.named_parameters() if each._backward_hooks]
    found += ["global hook"] * len(torch_module._global_forward_hooks)
    found += ["global pre-hook"] * len(torch_module._global_forward_pre_hooks)
    found += ["function mode"] * len(_get_current_function_mode_stack())
    found += [f"hook of {type(each).__name__}" for each in run.optimizers if each._optimizer_step_post_hooks]
    return found


@dataclass(frozen=True)
class Outcome:
    """What a fit came to."""

    weights: torch.Tensor
    warnings: list[str]
    left: list[str]
    seconds: float
    steps: int


class Sharded(Regression):
    """Each layer's weights are split over the ranks."""

    def configure_model(self) -> None:
        for layer in self.net:
            if any(True for _ in layer.parameters()):
                fully_shard(layer, mesh=self.device_mesh["data_parallel"])


STRATEGIES: dict[str, tuple[Callable[[], Strategy], type[Regression]]] = {
    "DDP": (DDPStrategy, Regression),
    "FSDP2": (lambda: ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1), Sharded),
}


def train(
    *callbacks: Callback,
    site: Site | None = None,
    seen: set | None = None,
    strategy: str | None = None,
    **settings: Any,
) -> Outcome:
    """Fit six steps, with ``site`` raising, on one process or with a strategy on two."""
    torch.manual_seed(0)
    make, kind = STRATEGIES[strategy] if strategy else (None, Regression)
    module = kind(optimizer=torch.optim.SGD, lr=0.01)
    if make:
        settings |= {"devices": 2, "use_distributed_sampler": False, "enable_progress_bar": False, "strategy": make()}
    run = trainer(*callbacks, **settings)
    data = batches(6)
    if dist.is_initialized():
        data = [(x[dist.get_rank() :: 2], y[dist.get_rank() :: 2]) for x, y in data]
    before = set(vars(module))
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught, injected(site, set() if seen is None else seen):
        warnings.simplefilter("always")
        run.fit(module, loader(data), loader(batches(2)))
    told = [str(each.message) for each in caught if "is off for the rest of this run" in str(each.message)]
    weights = torch.cat([on_this_rank(parameter).detach().reshape(-1) for parameter in module.parameters()])
    return Outcome(
        weights=weights,
        warnings=told,
        left=left_behind(
            module, run, before | {"prepare_data_per_node", "allow_zero_length_dataloader_with_multiple_devices"}
        ),
        seconds=time.perf_counter() - start,
        steps=run.global_step,
    )


def sites(name: str, strategy: str | None = None) -> list[Site]:
    """Return every guarded call that a fit with this callback makes."""
    seen: set[tuple[str, str]] = set()
    train(OBSERVERS[name](), seen=seen, strategy=strategy)
    return [Site(guard, where, after) for guard, where in sorted(seen) for after in (False, True)]


def complaints(name: str, site: Site, plain: Outcome, found: Outcome, failing: bool = True) -> list[str]:
    """Say what is not as it should be after ``site`` has raised (on this rank, if ``failing``)."""
    where = f"{name}: {site}"
    wrong = []
    if not torch.equal(plain.weights, found.weights):
        wrong.append(f"{where}: weights differ")
    if found.steps != plain.steps:
        wrong.append(f"{where}: {found.steps} steps instead of {plain.steps}")
    if left := [each for each in found.left if each not in plain.left]:
        wrong.append(f"{where}: left behind {left}")
    if failing and len(found.warnings) != 1:
        wrong.append(f"{where}: {len(found.warnings)} warnings: {found.warnings}")
    if failing and found.warnings and site.guard not in found.warnings[0]:
        wrong.append(f"{where}: the warning does not name it: {found.warnings}")
    if not failing and found.warnings:
        wrong.append(f"{where}: a warning on the rank that did not fail: {found.warnings}")
    return wrong


def every_site(name: str) -> tuple[int, list[str]]:
    """Make each guarded call of a callback raise, on one process; return their number and all complaints."""
    plain, places = train(), sites(name)
    wrong = [each for site in places for each in complaints(name, site, plain, train(OBSERVERS[name](), site=site))]
    return len(places), wrong


def every_site_on_one_of_two_ranks(names: list[str], strategy: str) -> dict[str, tuple[int, list[str]]]:
    """The same on rank 1 of two, for several callbacks; run on both ranks."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    found = {}
    for name in names:
        plain = train(strategy=strategy)
        gathered: list[Any] = [None, None]
        dist.all_gather_object(gathered, sites(name, strategy))
        places, wrong = gathered[1], []  # those of the rank that will fail
        for site in places:
            failing = dist.get_rank() == 1
            outcome = train(OBSERVERS[name](), site=site if failing else None, strategy=strategy)
            wrong += complaints(name, site, plain, outcome, failing)
        found[name] = len(places), wrong
    return found


_INTERRUPTED: list[int] = []  # not on the class: a probe puts back what that holds


class InterruptedInProbe(Regression):
    """Ctrl-C on one rank, in the midst of the first loss beside training."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.dropout = nn.Dropout()  # in evaluation mode in a probe

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if not self.dropout.training and not _INTERRUPTED and dist.get_rank() == 1:
            _INTERRUPTED.append(1)
            signal.raise_signal(signal.SIGINT)
        return super().training_step(batch, batch_idx)


def interrupt_on_one_of_two_ranks() -> tuple[torch.Tensor, int, list[int]]:
    """Return the weights, the steps taken and those after which a spectrum was computed."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(0)
    module, spectrum = InterruptedInProbe(optimizer=torch.optim.SGD, lr=0.01), HessianSpectrum(every_n_steps=2, top_k=1)
    settings = {"devices": 2, "use_distributed_sampler": False, "enable_progress_bar": False}
    run = trainer(spectrum, strategy=DDPStrategy(), **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run.fit(module, loader(batches(6)), loader(batches(2)))
    weights = torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])
    return weights, run.global_step, [step for step, _ in spectrum.history]
