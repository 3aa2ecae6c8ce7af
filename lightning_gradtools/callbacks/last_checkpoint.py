"""The newest state of a run on disk, however it ends."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from lightning_gradtools._lightning.checkpoints import (
    NotSavedError,
    batches_processed,
    ends_epoch,
    save,
    saves_alone,
    validation_follows,
)
from lightning_gradtools._lightning.fail_safe import tell
from lightning_gradtools._lightning.flavour import is_a
from lightning_gradtools._lightning.loop import act_last, is_accumulating, is_broken_off
from lightning_gradtools._lightning.random_state import go_on_from, random_state
from lightning_gradtools.arguments import ArgumentError, described, number
from lightning_gradtools.distributed import gather_objects


class LastCheckpoint(Checkpoint):
    """Keeps ``last.ckpt``, from which ``Trainer.fit(ckpt_path=…)`` goes on as if the run had not stopped.

    It is saved after each epoch, every few minutes within one, at the end of training whatever ends it (also in
    mid-epoch: ``max_steps``, ``max_time``, ``EarlyStopping``), and when training is broken off: by Ctrl-C, SIGTERM or
    an exception. A second callback beside ``ModelCheckpoint``, which keeps the best: that class takes either the end of
    an epoch or a time for its trigger, saves ``last.ckpt`` only along with another file, and what it saves within an
    epoch that is cut short is taken for the whole epoch on resume.

    A Ctrl-C waits for the end of the batch, because a state in the middle of one cannot be gone on from; a second one
    does not wait. What is there stays whole until the new checkpoint is: a kill at any moment leaves one to go on from.

    A checkpoint also holds the global random state of each rank (Python, NumPy, torch, CUDA), which Lightning's do not,
    so that dropout goes on with the numbers that it would have drawn.

    Nothing is saved where that would be a state that never was: if an exception comes while the optimizer changes the
    weights, the checkpoint before stays. With shards of the weights on several ranks (FSDP, tensor parallelism) an
    exception or Ctrl-C saves nothing, because one rank alone cannot; SIGTERM does.

    A save that fails, as on a full disk, is said once and tried again when the next is due; training goes on, on all
    ranks, and the checkpoint before stays.

    Args:
        dirpath: the folder, on a local disk; by default ``checkpoints`` in the Trainer's ``default_root_dir``.
        every_minutes: how often to save within an epoch; None: only at its end. One save takes about as long as
            writing the weights and the optimizer's state, several times the size of the weights, to disk.

    Attributes:
        last_model_path: the checkpoint; empty until there is one.

    Raises:
        ArgumentError: if an argument is not what it may be.

    It logs nothing.
    """

    def __init__(self, dirpath: str | Path | None = None, every_minutes: float | None = 5.0) -> None:
        if dirpath is not None and "://" in str(dirpath):
            raise ArgumentError(f"dirpath={str(dirpath)!r}: must be a folder on a local disk")
        if every_minutes is not None:
            number("every_minutes", every_minutes, at_least=0)
        self.dirpath = dirpath
        self.every_minutes = every_minutes
        self.last_model_path = ""
        self._saved_at: int | None = None  # batches processed by then
        self._saved_when = 0.0
        # Batches processed at the last save, and at the next look at the clock.
        self._counted_from = self._ask_at = 0
        self._trains = False
        self._changing: int | None = None  # the step before the one which the optimizer is taking
        self._interrupt = _HeldInterrupt()
        self._random: list[Any] | None = None  # what a checkpoint says of the random state
        self._told = False  # that the latest save failed

    def __repr__(self) -> str:
        return described(self)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin a run, as the last of the callbacks: what is saved holds what the others made of the batch."""
        if stage == "fit":
            act_last(trainer, self)
            self._saved_at, self._changing, self._trains, self._random = None, None, False, None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the random state of all ranks; of this one where others may not be here."""
        own = random_state()
        states = [own] if is_broken_off(trainer) else gather_objects(own)
        checkpoint["callbacks"][self.state_key] = {"version": 1, "random": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the random state for when training goes on."""
        self._random = state_dict.get("random")

    def _restore_random_state(self, trainer: Trainer) -> None:
        states, self._random = self._random, None
        if states is not None and len(states) == trainer.world_size:
            go_on_from(states[trainer.global_rank])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to hold a Ctrl-C back."""
        self._saved_when = time.monotonic()
        self._ask_at = self._counted_from = batches_processed(trainer)
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._interrupt.hold(announce=trainer.is_global_zero)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """From the first batch on there is something to save."""
        self._restore_random_state(trainer)
        self._trains = True

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Remember that weights change from here on."""
        self._changing = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time to, and let a Ctrl-C through; not where the epoch's end or validation comes next."""
        self._changing = None
        if is_accumulating(trainer) or ends_epoch(trainer) or validation_follows(trainer):
            return
        if self.every_minutes is not None and self._is_due(trainer, 60 * self.every_minutes):
            self._save(trainer)
        self._interrupt.let_through(trainer)

    def _is_due(self, trainer: Trainer, interval: float) -> bool:
        """Say whether ``interval`` seconds have passed; ranks ask the first one's clock together, now and then."""
        passed = time.monotonic() - self._saved_when
        if trainer.world_size == 1:
            return passed >= interval
        done = batches_processed(trainer)
        if done < self._ask_at:
            return False
        a_batch = passed / max(1, done - self._counted_from)
        wait = 0 if passed >= interval else max(1, min(100, int((interval - passed) / a_batch / 2)))
        wait = trainer.strategy.broadcast(wait)
        self._ask_at = done + max(1, wait)
        return wait == 0

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Let a Ctrl-C through: who goes on validates from the start."""
        if not trainer.sanity_checking:
            self._interrupt.let_through(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the epoch before: what Lightning does after its last hook belongs to it, as a step on a plateau."""
        self._restore_random_state(trainer)
        if self._trains:
            self._save(trainer)
        self._interrupt.let_through(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what training came to."""
        self._save(trainer)
        self._trains = False
        self._interrupt.release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save what can be gone on from. The exception is what the user has to see: no other takes its place."""
        self._interrupt.release()
        alone = saves_alone(trainer)  # then waiting for ranks that may be gone already is no use
        together = is_a(exception, "SIGTERMException")  # raised by all ranks after the same batch
        if self._trains and self._changing != trainer.global_step and (alone or together):
            try:
                self._save(trainer, alone=alone)
            except Exception as error:
                tell(f"LastCheckpoint: nothing was saved: {type(error).__name__}: {error}")
        self._trains = False

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the handler, whatever happened."""
        self._interrupt.release()

    def _save(self, trainer: Trainer, *, alone: bool = False) -> None:
        processed = batches_processed(trainer)
        is_training = trainer.state.fn == "fit" and not trainer.sanity_checking
        if not is_training or trainer.fast_dev_run or processed == self._saved_at:  # type: ignore[attr-defined]
            return
        path = Path(self.dirpath or Path(trainer.default_root_dir) / "checkpoints") / "last.ckpt"
        try:
            if trainer.is_global_zero:  # who goes on from here does not log these steps again
                self._flush(trainer.loggers)
            save(trainer, path, alone=alone)
            self.last_model_path, self._saved_at, self._told = str(path), processed, False
        except NotSavedError as failure:
            if failure.__cause__ is not None and not self._told:
                self._told = True
                tell(
                    f"LastCheckpoint: could not save at step {trainer.global_step}; training goes on, and it is tried"
                    f" again later: {type(failure.__cause__).__name__}: {failure.__cause__}"
                )
        self._saved_when = time.monotonic()  # after a failure too: not every batch is to try
        self._ask_at = self._counted_from = processed

    @staticmethod
    def _flush(loggers: Iterable[Any]) -> None:
        for logger in loggers:
            try:
                logger.save()
            except Exception as error:
                tell(f"LastCheckpoint: {type(logger).__name__} could not save: {type(error).__name__}: {error}")


class _HeldInterrupt:
    """A Ctrl-C that comes when it does no harm; the second one comes at once."""

    def __init__(self) -> None:
        self._before: Callable[..., Any] | None = None
        self._came = False

    def hold(self, *, announce: bool) -> None:
        """Hold it back from now on. Only the main thread is told of signals, and only a function can be put off."""
        before = signal.getsignal(signal.SIGINT)
        if (
            self._before is not None
            or threading.current_thread() is not threading.main_thread()
            or not callable(before)
        ):
            return

        def handle(number: int, frame: Any) -> None:
            if self._came:
                self.release()
                before(number, frame)
                return
            self._came = True
            if announce:
                os.write(2, b"\nCtrl-C: stopping after this batch; again to stop at once\n")  # amid another print too

        self._before, self._came = before, False
        signal.signal(signal.SIGINT, handle)

    def let_through(self, trainer: Trainer) -> None:
        """Raise it if it came. Of several ranks the first does, and ends the others, which cannot stop elsewhere."""
        if self._came and trainer.is_global_zero:
            self.release()
            raise KeyboardInterrupt

    def release(self) -> None:
        """Hold nothing back any more."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before, self._came = None, False
