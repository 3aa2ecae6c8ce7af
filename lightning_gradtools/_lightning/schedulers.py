"""Who owns the learning rate: the module's own schedulers, or a callback's; and how long a schedule is."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from inspect import signature
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR

from lightning_gradtools._lightning.flavour import counterpart, is_a
from lightning_gradtools._lightning.loop import callbacks_of
from lightning_gradtools._lightning.module import patched
from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.distributed import mean_over_ranks


def range_test(trainer: Trainer, min_lr: float, max_lr: float, num_steps: int) -> LearningRateFinder:
    """Return Lightning's finder as a callback that ends the training it runs in, and leaves the module's rate alone.

    Lightning's Tuner makes one like this too, but puts it before the other callbacks, so that it would test the network
    before it is initialised.

    Args:
        trainer: whose finder it is to be; it knows the one of its own package only.
        min_lr: the first learning rate.
        max_lr: the last.
        num_steps: the number of optimizer steps.
    """
    make = counterpart(trainer, "callbacks", "LearningRateFinder")
    finder: LearningRateFinder = make(min_lr, max_lr, num_steps, update_attr=False)
    finder._early_exit = True
    return finder


class RangeTestCurve:
    """What a range test sees: rate and loss of each optimizer step, the same on every rank.

    Lightning's finder keeps the loss of a step's last micro-batch, on this rank, divided by their number; and it takes
    all callbacks but its own away meanwhile.

    Attributes:
        rates: of each step.
        losses: mean over its micro-batches and ranks, NaN where ``training_step`` returned none.
    """

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.losses: list[float] = []
        self._window: dict[int, Tensor] = {}  # by the index of the batch: LBFGS evaluates it several times

    @contextmanager
    def watching(self, trainer: Trainer) -> Iterator[None]:
        """Add a point to the curve with each step that ``trainer`` takes in the body."""
        with ExitStack() as patches:
            for name in ("training_step", "optimizer_step"):
                patches.callback(patched(trainer.strategy, name, getattr(self, f"_{name}")).remove)
            yield

    def _training_step(
        self, original: Callable[..., Any], batch: Any, batch_idx: int, *args: Any, **kwargs: Any
    ) -> Any:
        output = original(batch, batch_idx, *args, **kwargs)
        loss = output.get("loss") if isinstance(output, Mapping) else output
        self._window[batch_idx] = torch.tensor(math.nan) if loss is None else loss.detach().float()
        return output

    def _optimizer_step(self, original: Callable[..., Any], optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        rate = float(optimizer.param_groups[0]["lr"])
        output = original(optimizer, *args, **kwargs)
        mean = torch.stack([*self._window.values()]).mean()
        self._window.clear()
        self.rates.append(rate)
        self.losses.append(mean_over_ranks(mean).item())
        return output


def install(trainer: Trainer, scheduler: LRScheduler, **settings: Any) -> LRSchedulerConfig:
    """Give ``scheduler`` to the Trainer, as if ``configure_optimizers`` had returned it; return how it is given.

    Args:
        trainer: the run.
        scheduler: on an optimizer of the run.
        settings: those of Lightning's ``LRSchedulerConfig``: ``interval``, ``frequency`` and so on.
    """
    make = counterpart(trainer, "utilities.types", "LRSchedulerConfig")
    config: LRSchedulerConfig = make(scheduler, **settings)
    trainer.strategy.lr_scheduler_configs.append(config)
    return config


def make_way(trainer: Trainer, pl_module: LightningModule, replace: bool) -> None:
    """Drop the schedulers that the run already has if ``replace`` is set.

    Raises:
        ArgumentError: if there are any and ``replace`` is not set, because two would overwrite each other; or
            if one has already overwritten what the optimizer was made with.
    """
    own = [config.scheduler for config in trainer.lr_scheduler_configs]
    if not own:
        return
    names = ", ".join(type(scheduler).__name__ for scheduler in own)
    if not replace:
        raise ArgumentError(
            f"replace={replace!r}: {type(pl_module).__name__} already has a scheduler ({names}) and two "
            "would overwrite each other: remove one, or set replace=True to drop the module's"
        )
    if any(isinstance(scheduler, (OneCycleLR, CyclicLR)) for scheduler in own):
        raise ArgumentError(
            f"replace={replace!r}: cannot replace {names}, which has already overwritten the optimizer's "
            "learning rate and momentum: remove it from configure_optimizers"
        )
    trainer.strategy.lr_scheduler_configs = []


def is_installed(trainer: Trainer, scheduler: LRScheduler) -> bool:
    """Say whether the run still has ``scheduler``: others take it out, as StochasticWeightAveraging does."""
    return any(config.scheduler is scheduler for config in trainer.lr_scheduler_configs)


def is_averaging(trainer: Trainer) -> bool:
    """Say whether the run goes on from a checkpoint in which StochasticWeightAveraging has taken the rate over.

    Its schedule's state is then the only one in the checkpoint, and the callback puts it back itself.
    """
    averaging: list[Any] = [each for each in callbacks_of(trainer) if is_a(each, "StochasticWeightAveraging")]
    return any(callback._scheduler_state is not None for callback in averaging)


# What depends on the length of the whole schedule; the argument that gives the length is the first.
_OF_LENGTH = {
    "OneCycleLR": ("total_steps", "_schedule_phases"),
    "CosineAnnealingLR": ("T_max",),
    "PolynomialLR": ("total_iters",),
}


def length_argument(scheduler: str) -> str | None:
    """Return the name of the argument that is the length of the whole schedule; None if the class has none."""
    return next(iter(_OF_LENGTH.get(scheduler, ())), None)


def idle_optimizer(num_groups: int) -> Optimizer:
    """Return an optimizer of nothing, to make a scheduler on that is only looked at."""
    groups = [{"params": [torch.nn.Parameter(torch.zeros(()))]} for _ in range(num_groups)]
    return torch.optim.SGD(groups, lr=1.0, momentum=0.9)


def adopt_length(scheduler: LRScheduler, planned: LRScheduler) -> None:
    """Give ``scheduler`` the length that ``planned``, of the same class, has, and write the rates of where it stands.

    They are those of the formula: torch computes the rate from the one before it, which was another curve's.
    """
    state = planned.state_dict()
    scheduler.load_state_dict({key: state[key] for key in _OF_LENGTH[type(scheduler).__name__]})
    write_rates(scheduler)


def write_rates(scheduler: LRScheduler) -> None:
    """Write the rates of where ``scheduler`` stands, by its formula; past the end of ``OneCycleLR``, its last ones."""
    position, count = scheduler.last_epoch, scheduler._step_count
    # At its very end OneCycleLR has a rate that belongs to no step, and climbs; past that it has none.
    last = scheduler.total_steps - 1 if isinstance(scheduler, OneCycleLR) else position
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this way to the formula is deprecated, and that no step was made yet
        scheduler.step(min(position, last))
    scheduler.last_epoch, scheduler._step_count = position, count


def refuse_foreign_state(scheduler: LRScheduler, state: Mapping[str, Any]) -> None:
    """Refuse what is not the state of a scheduler like ``scheduler``: torch takes in anything, or a KeyError comes.

    Raises:
        ArgumentError: in one line.
    """
    ours = scheduler.state_dict()
    names = [name for key in signature(type(scheduler)).parameters for name in (key, f"{key}s")]  # `lr_lambdas`
    arguments = [name for name in names if name in ours]
    # What begins with an underscore comes and goes with torch's releases, and `verbose` went with 2.7.
    others = [key for key in state if key not in ours and not key.startswith("_") and key != "verbose"]
    wrong = [f"{key} is missing" for key in arguments if key not in state] + [f"{key} is unknown" for key in others]
    if wrong:
        raise ArgumentError(
            f"scheduler={type(scheduler).__name__}: cannot go on from the scheduler state in the checkpoint, which is "
            f"of another scheduler or version: {', '.join(wrong)}"
        )


def join_added_groups(scheduler: LRScheduler) -> None:
    """Have groups that were added to the optimizer while training scheduled like the others, from their own rate on.

    Raises:
        ArgumentError: if the scheduler was given something for each group that it had.
    """
    groups = scheduler.optimizer.param_groups
    for key in ("base_lrs", "lr_lambdas"):
        known = getattr(scheduler, key, groups)  # ReduceLROnPlateau has neither, and sees to it itself
        for group in groups[len(known) :]:
            if isinstance(scheduler, (OneCycleLR, CyclicLR)) or (key == "lr_lambdas" and len(set(map(id, known))) > 1):
                raise ArgumentError(
                    f"scheduler={type(scheduler).__name__}: cannot take in a parameter group that is added while "
                    "training, because it was told what to do with each of those it had; WarmupCosineSchedule can"
                )
            rate = group["lr"].clone() if isinstance(group["lr"], Tensor) else group["lr"]
            known.append(group.setdefault("initial_lr", rate) if key == "base_lrs" else known[0])
