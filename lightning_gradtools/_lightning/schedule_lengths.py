"""How long the run's schedules are, beside how long the run is."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from inspect import getclosurevars
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch.optim.lr_scheduler import ChainedScheduler, LambdaLR, MultiplicativeLR, SequentialLR

from lightning_gradtools._lightning.loop import run_lengths
from lightning_gradtools._lightning.schedulers import length_argument
from lightning_gradtools.diagnosis.loop_observation import ScheduleObservation


def schedule_lengths(trainer: Trainer, pl_module: LightningModule) -> list[ScheduleObservation]:
    """Return the schedules that Lightning steps each step or each epoch, with the lengths that can be told.

    None under manual optimisation, where the user steps them, and none of a run without a known end. To be asked from
    ``on_train_start`` on.
    """
    steps, epoch_steps = run_lengths(trainer, pl_module)
    if not pl_module.automatic_optimization or steps is None or epoch_steps is None:
        return []
    epochs = math.ceil(steps / epoch_steps)
    return [
        ScheduleObservation(
            name=type(config.scheduler).__name__,
            interval=config.interval,
            lengths=tuple(sorted(set(_lengths(config.scheduler)))),
            steps=steps,
            batches=int(trainer.num_training_batches) * epochs,
            epochs=epochs,
            epoch_steps=epoch_steps,
        )
        for config in trainer.lr_scheduler_configs
        if config.frequency == 1 and not config.reduce_on_plateau
    ]


def is_scheduled(trainer: Trainer) -> bool:
    """Say whether a schedule may make a rate of zero larger: none can whose own rates are all zero."""
    return any(
        any(float(rate) > 0 for rate in getattr(config.scheduler, "base_lrs", ()))
        for config in trainer.lr_scheduler_configs
    )


def _lengths(scheduler: Any) -> Iterator[int]:
    if isinstance(scheduler, SequentialLR):
        for length in _lengths(scheduler._schedulers[-1]):
            yield scheduler._milestones[-1] + length
    elif isinstance(scheduler, ChainedScheduler):
        for each in scheduler._schedulers:
            yield from _lengths(each)
    elif isinstance(scheduler, (LambdaLR, MultiplicativeLR)):
        for function in scheduler.lr_lambdas:
            yield from _numbers_in(function)
    else:
        argument = length_argument(type(scheduler).__name__)
        whole = None if argument is None else getattr(scheduler, argument, None)
        if isinstance(whole, (int, float)) and whole == int(whole):
            yield int(whole)


def _numbers_in(function: Callable[..., Any]) -> Iterator[int]:
    """Return the whole numbers that a user's function was given, without calling it."""
    held: list[Any] = []
    if isinstance(function, partial):
        held = [*function.args, *function.keywords.values()]
        yield from _numbers_in(function.func)
    elif hasattr(function, "__code__"):
        held = list(getclosurevars(function).nonlocals.values())  # which leaves empty cells out
        held += function.__defaults__ or ()
    elif hasattr(function, "__dict__"):
        held = list(vars(function).values())
    yield from (int(each) for each in held if type(each) in (int, float) and math.isfinite(each) and each == int(each))
