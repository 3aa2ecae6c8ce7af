"""Warm-up-cosine on any LightningModule, counted in optimizer steps."""

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lightning_gradtools._lightning.fail_safe import FailSafe
from lightning_gradtools._lightning.loop import run_lengths
from lightning_gradtools._lightning.schedulers import install, is_averaging, is_installed, make_way
from lightning_gradtools._lightning.strategy import require_whole_gradients
from lightning_gradtools.arguments import ArgumentError, described
from lightning_gradtools.reporting.figures.learning_rate import planned_curve
from lightning_gradtools.reporting.loggers import log_figure
from lightning_gradtools.schedules import Length, WarmupCosine, WarmupCosineLR, check_length, steps_in

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class WarmupCosineSchedule(Callback):
    """Puts a :class:`~lightning_gradtools.schedules.WarmupCosine` schedule on every optimizer of the run.

    A length is an integer (optimizer steps), a float in [0, 1] (a fraction: of the run for ``total_steps``,
    of ``total_steps`` for the others; ``1.0`` is all of it) or a text (``"2 epochs"``). The length of the run
    is Lightning's ``estimated_stepping_batches``, that is optimizer steps: accumulation,
    ``limit_train_batches``, ``max_steps`` and the number of devices are accounted for. It is known once
    Lightning has restored a checkpoint and set up its data, so the curve begins in ``on_train_start``: what
    another callback reads before that is the base learning rate.

    **What counts as a step.** The learning rate of an optimizer's k-th real step, counted from 0, is its base
    learning rate times ``WarmupCosine.factor(k)``. A step is real if ``optimizer.step()`` ran and any
    parameter had a gradient: a batch whose ``training_step`` returned None, a step that the fp16 loss scaler
    skipped, and a step whose gradients were set to None do not count, as they do not in Adam's own bias
    correction. Each skipped step leaves the curve one step short of its end. A fused optimizer skips on the
    device, under the fp16 scaler or on the word of ``GradientClipping``, where nothing can see it: there every
    step counts. An optimizer that drops its gradients inside ``step()`` never advances.

    **Several optimizers, manual optimisation.** Every optimizer has its own count. Under manual optimisation
    nothing need be called: each ``optimizer.step()`` advances that optimizer's schedule; do not step it
    yourself. The length derived from the run assumes one step a batch for each optimizer; give
    ``total_steps`` if yours step otherwise.

    **Resume.** The position comes from the checkpoint, the curve from the arguments. With ``total_steps``
    given, or with an unchanged run, the learning rates continue exactly. A length relative to the run is
    taken from the run as it is now: after ``max_epochs`` went from 10 to 20 the run continues as one that was
    planned for 20 from its start, so at the moment of resuming the learning rate jumps to the longer curve
    (up; from the floor, if the first run was complete), and one line says from what to what. Give
    ``total_steps`` to stay on the old curve, or ``decay_steps`` (warm-up-stable-decay) and resume from the
    hold, to extend a run without a jump. So it is with another batch size, accumulation or number of devices:
    the position is the number of steps made, the curve is that of a run that had them from its start.

    **Groups that are added while training**, as by Lightning's ``BackboneFinetuning``, join with the rate they
    are added with as their base learning rate (their ``"initial_lr"``, if they have one): added with 0.01 in
    the middle of the decay, where the factor is 0.5, they train with 0.005. What ``BackboneFinetuning`` itself
    sets at the start of each later epoch lasts for one step.

    **StochasticWeightAveraging** takes the schedule out when it begins, and has the rate from there on, also
    after a resume.

    A module that has its own scheduler is refused, because two would overwrite each other, unless ``replace``
    is set. With Lightning's ``LearningRateFinder`` or ``Tuner.lr_find`` the suggestion becomes the peak.

    Lightning's ``LearningRateMonitor`` sees the schedule as it does any other. Logged by itself:

    ========================= ================================ ===============================================
    key                       unit                             when
    ========================= ================================ ===============================================
    ``learning_rate/planned`` figure: learning rate over steps at the start of training, to TensorBoard, if
                                                               matplotlib (the extra ``plots``) is installed
    ========================= ================================ ===============================================

    Args:
        warmup_steps: the length of the warm-up. By default 5 %, as Goyal et al. 2017 (5 of 90
            epochs) and RoBERTa (Liu et al. 2019; 24k of 500k steps).
        total_steps: the length of the schedule; left out, the run's.
        min_lr_ratio: the floor as a fraction of the base learning rate.
        warmup_start_factor: the fraction of the base learning rate that the first step is made with; left
            out, ``1 / (warmup_steps + 1)``.
        decay: ``"cosine"``, ``"linear"`` or ``"1-sqrt"``.
        decay_steps: the length of the decay; left out, all that follows the warm-up. What is between is held
            at the base learning rate.
        num_cycles: more than 1 restarts the decay from the base learning rate, in equal parts.
        replace: drop the schedulers that the module configures.

    Raises:
        ArgumentError: at construction, for a value that can never work; at fit start, for a module with its own
            scheduler, and under FSDP1 and DeepSpeed, where gradients, and so skipped steps, are out of sight; before
            the first step, for a run without an end and without ``total_steps``, for lengths that do not fit into each
            other; on resume, for a checkpoint whose scheduler is of another kind.
    """

    def __init__(
        self,
        warmup_steps: Length = 0.05,
        total_steps: Length | None = None,
        min_lr_ratio: float = 0.0,
        warmup_start_factor: float | None = None,
        decay: str = "cosine",
        decay_steps: Length | None = None,
        num_cycles: int = 1,
        replace: bool = False,
    ) -> None:
        self.warmup_steps = check_length("warmup_steps", warmup_steps)
        self.total_steps = None if total_steps is None else check_length("total_steps", total_steps)
        self.decay_steps = None if decay_steps is None else check_length("decay_steps", decay_steps)
        self.replace = replace
        self._shape = partial(
            WarmupCosine,
            min_lr_ratio=min_lr_ratio,
            warmup_start_factor=warmup_start_factor,
            decay=decay,
            num_cycles=num_cycles,
        )
        self._shape(total_steps=1)  # so that what is wrong with these is told now and not at fit start
        self.schedulers: list[WarmupCosineLR] = []
        self._hooks: list[RemovableHandle] = []
        self.guard = FailSafe("WarmupCosineSchedule's figure")

    def __repr__(self) -> str:
        return described(self, **self._shape.keywords)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the schedule, for Lightning to restore; what it looks like is known when data is set up."""
        # A step is told from a skipped one by its gradients.
        require_whole_gradients(trainer, "WarmupCosineSchedule", ", or TorchLRScheduler")
        self._release()
        self.guard.renew()
        make_way(trainer, pl_module, self.replace)
        if is_averaging(trainer):
            return
        for optimizer in trainer.optimizers:
            scheduler = WarmupCosineLR(optimizer, None)
            self.schedulers.append(scheduler)
            self._hooks.append(optimizer.register_step_pre_hook(partial(_join, trainer, scheduler)))
            self._hooks.append(optimizer.register_step_post_hook(partial(_advance, trainer, scheduler)))
            # Lightning saves, restores and monitors the scheduler but must not step it: it would count
            # skipped steps, and none at all under manual optimisation. A frequency that no batch index
            # reaches leaves that to us.
            install(trainer, scheduler, interval="step", frequency=sys.maxsize)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the curve, where a resumed run stands on it; say what the resume changes; draw what is planned."""
        if not any(is_installed(trainer, scheduler) for scheduler in self.schedulers):
            return
        run_steps, epoch_steps = run_lengths(trainer, pl_module)
        schedule = self._schedule(trainer, run_steps, epoch_steps)
        for scheduler in self.schedulers:
            scheduler.follow(schedule)
        self._compare_with_checkpoint(trainer, schedule)
        self.guard.run(self._draw, trainer, schedule, run_steps)

    def _draw(self, trainer: Trainer, schedule: WarmupCosine, run_steps: int | None) -> None:
        figure = partial(self._planned_curve, schedule, run_steps)
        log_figure(trainer, "learning_rate/planned", figure, trainer.global_step)

    def _planned_curve(self, schedule: WarmupCosine, run_steps: int | None) -> "Figure":
        """Draw the rates of every optimizer and group, at up to about a thousand steps."""
        end = max(schedule.total_steps, run_steps or 0)
        corners = {schedule.warmup_steps, schedule.total_steps - 1, schedule.total_steps, end}
        steps = sorted({*range(0, end, max(1, end // 1000)), *corners})
        rates = {}
        for i, scheduler in enumerate(self.schedulers):
            for base_lr in dict.fromkeys(map(float, scheduler.base_lrs)):  # groups of one rate are one line
                groups = [str(j) for j, other in enumerate(scheduler.base_lrs) if float(other) == base_lr]
                label = f"optimizer {i}, group {', '.join(groups)}"
                rates[label] = [base_lr * schedule.factor(step) for step in steps]
        return planned_curve(steps, rates, run_steps)

    def _compare_with_checkpoint(self, trainer: Trainer, schedule: WarmupCosine) -> None:
        """Say where the schedule of the checkpoint and of the arguments differ."""
        if trainer.global_step == 0:
            return
        loaded = [scheduler.loaded_schedule for scheduler in self.schedulers]
        if None in loaded:
            rank_zero_warn(
                "WarmupCosineSchedule: the checkpoint holds no state of this schedule, so its warm-up starts "
                f"now, at step {trainer.global_step} of the run"
            )
            return
        try:
            planned = WarmupCosine(**(loaded[0] or {}))
        except (TypeError, ArgumentError) as error:
            rank_zero_warn(
                "WarmupCosineSchedule: the checkpoint was saved by another version, whose curve cannot be compared "
                f"with that of the arguments, which goes on ({error})"
            )
            return
        if planned != schedule:
            step = self.schedulers[0].last_epoch
            rank_zero_info(
                f"WarmupCosineSchedule: planned for {planned.total_steps} steps when the checkpoint was "
                f"saved, now for {schedule.total_steps}: at step {step} the factor on the learning "
                f"rate goes from {planned.factor(step):.4g} to {schedule.factor(step):.4g}"
            )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let go of the optimizers."""
        self._release()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the optimizers, which the module may use again."""
        self._release()

    def _release(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self.schedulers = []

    def _schedule(self, trainer: Trainer, run_steps: int | None, epoch_steps: int | None) -> WarmupCosine:
        """Turn the lengths into optimizer steps of this run."""
        if self.total_steps is None and run_steps is None:
            raise ArgumentError(
                "total_steps=None: must be given, because this run has no known end "
                f"(max_epochs={trainer.max_epochs}, max_steps={trainer.max_steps})"
            )

        total = steps_in(
            "total_steps",
            1.0 if self.total_steps is None else self.total_steps,
            whole_steps=run_steps,
            epoch_steps=epoch_steps,
        )

        def within(name: str, length: Length) -> int:
            return steps_in(name, length, whole_steps=total, epoch_steps=epoch_steps)

        warmup = within("warmup_steps", self.warmup_steps)
        decay = None if self.decay_steps is None else within("decay_steps", self.decay_steps)
        if isinstance(self.decay_steps, float) and decay == total - warmup + 1:
            decay -= 1  # both were rounded up
        dev_run: bool = trainer.fast_dev_run  # type: ignore[attr-defined]
        if dev_run and self.total_steps is None:
            # It tries whether a run works, in steps too few for the run's lengths.
            total = max(total, warmup + (decay or 0))
        schedule = self._shape(total_steps=total, warmup_steps=warmup, decay_steps=decay)
        relative = self.total_steps is None or isinstance(self.total_steps, float)
        if not relative and not dev_run and run_steps is not None and run_steps != total:
            rank_zero_warn(
                f"WarmupCosineSchedule: total_steps={self.total_steps!r} is {total} optimizer steps, but the "
                f"run makes {run_steps}: it "
                + (
                    f"spends {run_steps - total} at the floor (min_lr_ratio={schedule.min_lr_ratio:g})"
                    if total < run_steps
                    else f"ends with a factor of {schedule.factor(run_steps - 1):.3g} on the learning rate"
                )
            )
        return schedule


def _join(trainer: Trainer, scheduler: WarmupCosineLR, *_: Any) -> None:
    """Put parameter groups that were added since the last step on the curve, before their first step."""
    if is_installed(trainer, scheduler):
        scheduler.join_added_groups()


def _advance(trainer: Trainer, scheduler: WarmupCosineLR, optimizer: Optimizer, *_: Any) -> None:
    """Move the schedule on after an optimizer's step, if that step was real."""
    if is_installed(trainer, scheduler) and any(
        p.grad is not None for group in optimizer.param_groups for p in group["params"]
    ):
        scheduler.step()
