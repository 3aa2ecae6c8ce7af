"""What is asked of a Trainer's loops: the logging step, accumulation, the length of the run, its callbacks."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_gradtools._lightning.flavour import is_a


def logging_step(trainer: Trainer) -> int:
    """Return the x-coordinate that Lightning gives to what ``self.log`` logs in this batch.

    It counts batches that ended in a step, whatever the number of optimizers, unlike ``trainer.global_step``.
    """
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def is_accumulating(trainer: Trainer) -> bool:
    """Say whether this batch only adds to the gradients, and takes no step."""
    return trainer.fit_loop._should_accumulate()


def is_logged(step: int, log_every_n_steps: int | None, trainer: Trainer) -> bool:
    """Say whether the batch that takes optimizer step ``step`` (counted from 0) is one to log.

    ``None`` follows the Trainer's ``log_every_n_steps``, of which 0 means never.
    """
    every: int = trainer.log_every_n_steps if log_every_n_steps is None else log_every_n_steps  # type: ignore[attr-defined]
    return every > 0 and ((step + 1) % every == 0 or trainer.should_stop)


def batch_moment(trainer: Trainer) -> tuple[int, int]:
    """Return what tells this batch from every other of the run."""
    return trainer.global_step, trainer.fit_loop.epoch_loop.total_batch_idx


def batch_index(trainer: Trainer) -> int:
    """Return the index of this batch in its epoch."""
    return trainer.fit_loop.batch_idx


def is_broken_off(trainer: Trainer) -> bool:
    """Say whether an exception is ending the run: other ranks may not be here any more."""
    return bool(trainer.state.status == "interrupted")


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """Return the callbacks of ``trainer``."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks


def act_last(trainer: Trainer, callback: Callback) -> None:
    """Have ``callback`` called after all others of ``trainer`` from the next hook on.

    Lightning calls checkpoint callbacks last, among themselves as they were given, and one flavour's are none to a
    Trainer of the other.
    """
    others = [each for each in callbacks_of(trainer) if each is not callback]
    trainer.callbacks = [*others, callback]  # type: ignore[attr-defined]


def log_folder(trainer: Trainer) -> Path:
    """Return the folder of the first logger, or the Trainer's own without one; on the rank that logs.

    ``Trainer.log_dir`` is the same for all ranks, and a broadcast: one rank alone must not ask for it.
    """
    for logger in trainer.loggers:
        for folder in (getattr(logger, "log_dir", None), logger.save_dir):
            if isinstance(folder, (str, Path)):
                return Path(folder)
    return Path(trainer.default_root_dir)


def publish(trainer: Trainer, scalars: Mapping[str, float]) -> None:
    """Put ``scalars`` into ``trainer.callback_metrics``, where ``EarlyStopping`` and sweeps look.

    Not through that property: reading it computes the user's own metrics, before their time.
    """
    values = torch.tensor(list(scalars.values())).unbind()
    trainer._logger_connector._callback_metrics.update(zip(scalars, values, strict=True))


def optimizer_suffix(trainer: Trainer, index: int) -> str:
    """Return what the keys of the optimizer at ``index`` end in: nothing where it is the only one."""
    return f"/optimizer_{index}" if len(trainer.optimizers) > 1 else ""


def restores_late(trainer: Trainer) -> bool:
    """Say whether the checkpoint is read after ``on_fit_start`` and not before, as where weights are split over ranks.

    Then nobody can tell in ``on_fit_start`` whether the run goes on from one, and the weights are not yet its own.
    """
    return trainer.strategy.restore_checkpoint_after_setup


def is_restoring(trainer: Trainer) -> bool:
    """Say whether the run goes on from a checkpoint: in ``on_load_checkpoint`` and, once it is read, after that.

    Lightning's tuners save and restore a checkpoint of their own within a run, which then goes by its path.
    """
    path = trainer.ckpt_path
    return path is not None and not Path(path).name.startswith((".lr_find_", ".scale_batch_size_"))


def run_lengths(trainer: Trainer, pl_module: LightningModule) -> tuple[int | None, int | None]:
    """Return the optimizer steps of the run and of its first epoch, None where they are not known.

    To be asked from ``on_train_start`` on. Before that Lightning has not set up its data, and to have it do so
    in ``on_fit_start`` would be before it restores its loops: a loader that resumes would begin its epoch anew.

    ``Trainer.estimated_stepping_batches`` where that is right: it takes a run without an end for one of -1
    steps if its data has no length, does not know Lightning's GradientAccumulationScheduler, counts the epoch
    that StochasticWeightAveraging adds and in which no step is made, and under manual optimisation takes
    ``max_steps``, which counts all optimizers together, for the steps of each.

    Raises:
        RuntimeError: if Lightning has not set up the training data yet.
    """
    if trainer.train_dataloader is None:
        raise RuntimeError("run_lengths: the training data is not set up yet; it is from on_train_start on")
    changing: list[Any] = [each for each in callbacks_of(trainer) if is_a(each, "GradientAccumulationScheduler")]
    averaging: list[Any] = [each for each in callbacks_of(trainer) if is_a(each, "StochasticWeightAveraging")]
    epochs = averaging[0]._max_epochs if averaging else trainer.max_epochs

    def steps_in_epoch(epoch: int) -> int:
        window = changing[0].get_accumulate_grad_batches(epoch) if changing else trainer.accumulate_grad_batches
        return math.ceil(trainer.num_training_batches / window)

    bounds = []
    if trainer.max_steps != -1:
        together = 1 if pl_module.automatic_optimization else len(trainer.optimizers)
        bounds.append(math.ceil(trainer.max_steps / together))
    epoch_steps = None if math.isinf(trainer.num_training_batches) else steps_in_epoch(0)
    if epoch_steps is not None and epochs is not None and epochs != -1:
        bounds.append(sum(steps_in_epoch(epoch) for epoch in range(epochs)))
    return (max(1, min(bounds)) if bounds else None), epoch_steps
