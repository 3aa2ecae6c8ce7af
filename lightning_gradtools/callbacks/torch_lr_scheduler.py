"""Any of torch's own schedulers on any LightningModule, with interval, frequency and monitor set right."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from lightning_gradtools._lightning.loop import run_lengths
from lightning_gradtools._lightning.schedulers import install, make_way
from lightning_gradtools.arguments import ArgumentError, described, integer, one_of

# torch documents these two as stepped after every batch, all others after every epoch.
_PER_STEP = ("OneCycleLR", "CyclicLR")
# The argument that is the length of the whole schedule.
_LENGTHS = {"OneCycleLR": "total_steps", "CosineAnnealingLR": "T_max", "PolynomialLR": "total_iters"}


class TorchLRScheduler(Callback):
    """Puts a scheduler of :mod:`torch.optim.lr_scheduler` on the optimizer of the run.

    Lightning steps it, checkpoints it and shows it to ``LearningRateMonitor``, as if ``configure_optimizers``
    had returned it. In a configuration::

        _target_: lightning_gradtools.callbacks.torch_lr_scheduler.TorchLRScheduler
        scheduler: {_target_: torch.optim.lr_scheduler.StepLR, _partial_: true, step_size: 30}

    A step is an optimizer step, not a batch. The length of ``OneCycleLR`` (``total_steps``),
    ``CosineAnnealingLR`` (``T_max``) and ``PolynomialLR`` (``total_iters``) is the run's where it is not
    given, in epochs or steps as the interval is.

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
            its own scheduler or optimises manually, where Lightning steps none, and for a length that is not
            known.
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
        if issubclass(self.scheduler.func, ReduceLROnPlateau) != (monitor is not None):
            needs = "the name of the logged value to watch" if monitor is None else "None, it watches nothing"
            raise ArgumentError(f"monitor={monitor!r}: must be, for {self.name}, {needs}")

    def _usual_interval(self) -> str:
        per_step = tuple(getattr(lr_scheduler, name) for name in _PER_STEP)
        return "step" if issubclass(self.scheduler.func, per_step) else "epoch"  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return described(self)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the scheduler: late enough for Lightning to keep it, early enough for it to be restored."""
        if not pl_module.automatic_optimization:
            raise ArgumentError(
                f"scheduler={self.name}: must not be used with manual optimisation, where Lightning steps no "
                "scheduler; WarmupCosineSchedule works there"
            )
        make_way(trainer, pl_module, self.replace)
        (optimizer,) = trainer.optimizers  # under automatic optimisation there is only one
        install(
            trainer,
            self.scheduler(optimizer, **self._run_length(trainer, pl_module)),
            interval=self.interval,
            frequency=self.frequency,
            reduce_on_plateau=self.monitor is not None,
            monitor=self.monitor,
        )

    def _run_length(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return the length argument, if the scheduler has one that is not given."""
        given = self.scheduler.keywords
        argument = _LENGTHS.get(self.name)
        if argument is None or argument in given or self.scheduler.args or "epochs" in given:
            return {}
        run_steps, epoch_steps = run_lengths(trainer, pl_module)
        if run_steps is None or (self.interval == "epoch" and epoch_steps is None):
            raise ArgumentError(
                f"{argument}=None: must be given for {self.name}, because this run has no known length in "
                f"{self.interval}s"
            )
        length = run_steps if self.interval == "step" else math.ceil(run_steps / (epoch_steps or 1))
        return {argument: math.ceil(length / self.frequency)}
