"""Any of torch's own schedulers on any LightningModule, with interval, frequency and monitor set right."""

import math
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, ReduceLROnPlateau
from torch.utils.hooks import RemovableHandle

from lightning_gradtools._lightning.loop import is_restoring, run_lengths
from lightning_gradtools._lightning.schedulers import (
    adopt_length,
    idle_optimizer,
    install,
    is_averaging,
    is_installed,
    join_added_groups,
    length_argument,
    make_way,
    refuse_foreign_state,
    write_rates,
)
from lightning_gradtools.arguments import ArgumentError, described, integer, one_of

# torch documents these two as stepped after every batch, all others after every epoch.
_PER_STEP = ("OneCycleLR", "CyclicLR")
# Stands for a length until the run's is known: longer than any, so that it is not the end of the schedule.
_UNKNOWN = sys.maxsize


class TorchLRScheduler(Callback):
    """Puts a scheduler of :mod:`torch.optim.lr_scheduler` on the optimizer of the run.

    Lightning steps it, checkpoints it and shows it to ``LearningRateMonitor``, as if ``configure_optimizers``
    had returned it. In a configuration::

        _target_: lightning_gradtools.callbacks.torch_lr_scheduler.TorchLRScheduler
        scheduler: {_target_: torch.optim.lr_scheduler.StepLR, _partial_: true, step_size: 30}

    A step is an optimizer step, not a batch. The length of ``OneCycleLR`` (``total_steps``),
    ``CosineAnnealingLR`` (``T_max``) and ``PolynomialLR`` (``total_iters``) is the run's where it is not
    given, in epochs or steps as the interval is. It is known in ``on_train_start``, once Lightning has set up
    its data.

    **Resume.** The position comes from the checkpoint, the length of these three from the arguments or the run
    as they are now, all else from the checkpoint, as in torch. Where the length is another, because
    ``max_epochs`` went from 10 to 20, the run continues on the longer curve, as one that was planned for 20 from
    its start, and one line says from what to what the learning rate goes; give the length to stay on the old
    curve. A run that makes more steps than a derived ``total_steps``, because accumulation went down midway, stays
    at ``OneCycleLR``'s last rate.

    **Groups that are added while training**, as by Lightning's ``BackboneFinetuning``, go on from the rate they
    are added with, as the others go on from theirs. ``OneCycleLR``, ``CyclicLR`` and functions for each group,
    which cannot know what is meant for it, refuse it in one line.

    **StochasticWeightAveraging** takes the scheduler out when it begins, and has the rate from there on, also
    after a resume.

    Logged keys: none; ``LearningRateMonitor`` logs the learning rate.

    Args:
        scheduler: the scheduler's class with its arguments, all but the optimizer, as a
            :func:`functools.partial`; or the class.
        interval: ``"step"`` or ``"epoch"``; left out, ``"step"`` for ``OneCycleLR`` and ``CyclicLR``,
            ``"epoch"`` for all others.
        frequency: step the scheduler every so many intervals.
        monitor: the logged value that ``ReduceLROnPlateau`` watches, and only that.
        replace: drop the schedulers that the module configures.

    Raises:
        ArgumentError: at construction, for a value that can never work; at fit start, for a module that has
            its own scheduler or optimises manually, where Lightning steps none; before the first step, for a
            length that is not known; on resume, for a checkpoint whose scheduler is of another kind; while
            training, for a group that cannot join.
    """

    def __init__(
        self,
        scheduler: Callable[..., LRScheduler],
        interval: str | None = None,
        frequency: int = 1,
        monitor: str | None = None,
        replace: bool = False,
    ) -> None:
        self.scheduler = scheduler if isinstance(scheduler, partial) else partial(scheduler)
        if not isinstance(self.scheduler.func, type) or not issubclass(self.scheduler.func, LRScheduler):
            raise ArgumentError(
                f"scheduler={scheduler!r}: must be a class of torch.optim.lr_scheduler, or a "
                "functools.partial of one (in a configuration: _partial_: true)"
            )
        self.name = self.scheduler.func.__name__
        self.interval = one_of("interval", interval or self._usual_interval(), ["step", "epoch"])
        self.frequency = integer("frequency", frequency, at_least=1)
        self.monitor = monitor
        self.replace = replace
        self._config: LRSchedulerConfig | None = None
        self._num_groups = 0  # of the optimizer, when the scheduler was made
        self._hook: RemovableHandle | None = None
        self._loaded: list[dict[str, Any]] | None = None
        if issubclass(self.scheduler.func, ReduceLROnPlateau) != (monitor is not None):
            needs = "the name of the logged value to watch" if monitor is None else "None, it watches nothing"
            raise ArgumentError(f"monitor={monitor!r}: must be, for {self.name}, {needs}")

    def _usual_interval(self) -> str:
        per_step = tuple(getattr(lr_scheduler, name) for name in _PER_STEP)
        return "step" if issubclass(self.scheduler.func, per_step) else "epoch"  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return described(self)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget another run's checkpoint and scheduler."""
        self._release()
        self._loaded = None

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: Any) -> None:
        """Look at the state that Lightning is about to give to the scheduler, before or after ``on_fit_start``."""
        if is_restoring(trainer):
            self._loaded = checkpoint.get("lr_schedulers", [])
            self._check_loaded()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the scheduler, for Lightning to restore; its length is known when data is set up."""
        if not pl_module.automatic_optimization:
            raise ArgumentError(
                f"scheduler={self.name}: must not be used with manual optimisation, where Lightning steps no "
                "scheduler; WarmupCosineSchedule works there"
            )
        make_way(trainer, pl_module, self.replace)
        if is_averaging(trainer):
            return
        (optimizer,) = trainer.optimizers  # under automatic optimisation there is only one
        self._num_groups = len(optimizer.param_groups)
        self._config = install(
            trainer,
            self.scheduler(optimizer, **({self._derived: _UNKNOWN} if self._derived else {})),
            interval=self.interval,
            frequency=self.frequency,
            reduce_on_plateau=self.monitor is not None,
            monitor=self.monitor,
        )
        self._check_loaded()
        self._hook = optimizer.register_step_pre_hook(partial(self._before_step, trainer, self._config))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the scheduler its length, and say what a resume changes."""
        config = self._config
        if config is None or not is_installed(trainer, config.scheduler):
            return
        length = self._run_length(trainer, pl_module)
        if self._loaded is not None and not self._loaded:
            # The optimizer's own state, loaded meanwhile, has nothing of what the scheduler had put there.
            config.scheduler = self.scheduler(config.scheduler.optimizer, **length)
            rank_zero_warn(
                f"TorchLRScheduler: the checkpoint holds no state of a scheduler, so {self.name} starts now, at step "
                f"{trainer.global_step} of the run"
            )
            return
        argument = length_argument(self.name)
        if argument is None:
            return
        planned = self.scheduler(idle_optimizer(self._num_groups), **length)
        old, new = getattr(config.scheduler, argument), getattr(planned, argument)
        if old == new:
            return
        group = config.scheduler.optimizer.param_groups[0]
        before = float(group["lr"])
        adopt_length(config.scheduler, planned)
        if old != _UNKNOWN:
            rank_zero_info(
                f"TorchLRScheduler: {self.name} had {argument}={old} when the checkpoint was saved, has {new} now: "
                f"at {self.interval} {config.scheduler.last_epoch * self.frequency} the learning rate goes from "
                f"{before:.4g} to {float(group['lr']):.4g}"
            )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let go of the optimizer."""
        self._release()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the optimizer, which the module may use again."""
        self._release()

    def _release(self) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._hook = self._config = None

    def _check_loaded(self) -> None:
        """Refuse the state of another scheduler, once both are known."""
        if self._config is not None and self._loaded:
            refuse_foreign_state(self._config.scheduler, self._loaded[0])

    def _before_step(self, trainer: Trainer, config: LRSchedulerConfig, *_: Any) -> None:
        """Look, before a step of the optimizer, whether groups were added; and stop at the end of what has one."""
        scheduler = config.scheduler
        if not is_installed(trainer, scheduler):
            return
        join_added_groups(scheduler)
        if isinstance(scheduler, OneCycleLR) and self._derived and scheduler.last_epoch >= scheduler.total_steps:
            write_rates(scheduler)
            config.frequency = sys.maxsize  # which no batch index reaches: one more would be an error

    @property
    def _derived(self) -> str | None:
        """The length argument, if the scheduler has one that is not given."""
        given = self.scheduler.keywords
        argument = length_argument(self.name)
        return None if self.scheduler.args or "epochs" in given or argument in given else argument

    def _run_length(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return the length argument, if it is the run's to give."""
        argument = self._derived
        if argument is None:
            return {}
        run_steps, epoch_steps = run_lengths(trainer, pl_module)
        if run_steps is None or (self.interval == "epoch" and epoch_steps is None):
            raise ArgumentError(
                f"{argument}=None: must be given for {self.name}, because this run has no known length in "
                f"{self.interval}s"
            )
        length = run_steps if self.interval == "step" else math.ceil(run_steps / (epoch_steps or 1))
        return {argument: math.ceil(length / self.frequency)}
