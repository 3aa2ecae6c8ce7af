"""Who owns the learning rate: the module's own schedulers, or a callback's."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateFinder
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR

from lightning_gradtools._lightning.flavour import counterpart
from lightning_gradtools.arguments import ArgumentError


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


def install(trainer: Trainer, scheduler: LRScheduler, **settings: Any) -> None:
    """Give ``scheduler`` to the Trainer, as if ``configure_optimizers`` had returned it.

    Args:
        trainer: the run.
        scheduler: on an optimizer of the run.
        settings: those of Lightning's ``LRSchedulerConfig``: ``interval``, ``frequency`` and so on.
    """
    make = counterpart(trainer, "utilities.types", "LRSchedulerConfig")
    trainer.strategy.lr_scheduler_configs.append(make(scheduler, **settings))


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
