"""The table printed after a run."""

import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning
from torch import Tensor

_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Summary:
    """What a run came to.

    Attributes:
        epochs: epochs completed.
        steps: optimizer steps taken; 0 where the processes that took them did not bring the number back (ddp_spawn).
        seconds: wall time of fit and test.
        metrics: the last value of each logged metric; ``test/…`` is the best checkpoint's.
        best_checkpoint: its path; None if none was kept.
        last_checkpoint: the path of the newest state; None if none was kept.
        resumed_at: optimizer steps that were taken before; ``seconds`` are those since.
        finished_at: the optimizer step of the last checkpoint, if all that follows training was done too; else None.
    """

    epochs: int
    steps: int
    seconds: float
    metrics: dict[str, float]
    best_checkpoint: str | None
    last_checkpoint: str | None = None
    resumed_at: int = 0
    finished_at: int | None = None

    @classmethod
    def of(
        cls,
        trainer: lightning.Trainer,
        metrics: Mapping[str, Tensor],
        *,
        seconds: float,
        resumed_at: int,
        last_checkpoint: Path,
        finished_at: int | None,
    ) -> "Summary":
        """Collect it from a ``trainer`` after fit and test."""
        checkpoint = trainer.checkpoint_callback
        return cls(
            epochs=trainer.current_epoch,
            steps=trainer.global_step,
            seconds=seconds,
            # LearningRateMonitor's keys are curves; at the end of a schedule they say nothing.
            metrics={name: float(value) for name, value in sorted(metrics.items()) if not name.startswith("lr-")},
            best_checkpoint=getattr(checkpoint, "best_model_path", None) or None,
            last_checkpoint=str(last_checkpoint) if last_checkpoint.exists() else None,
            resumed_at=resumed_at,
            finished_at=finished_at,
        )

    def text(self, folder: str, details: Sequence[str] = (), go_on: str | None = None) -> str:
        """Return the table, the lines of ``details``, where the checkpoints are, and commands for what may come next.

        Args:
            folder: the run's; TensorBoard's command is left out if it holds no event files.
            details: lines between the table and the checkpoints.
            go_on: the command that goes on with a run that ended early.
        """
        took = f"{self.seconds:.1f} s"
        if self.steps:
            rate = (self.steps - self.resumed_at) / max(self.seconds, 1e-9)
            took = f"{self.epochs} epochs, {self.steps} optimizer steps, {took} ({rate:.0f} steps/s)"
        lines = [
            "",
            took,
            "",
            *self._table(),
            "",
            *(details and [*details, ""]),
        ]
        if self.best_checkpoint:
            lines.append(f"Best checkpoint  {os.path.relpath(self.best_checkpoint)}")
        if self.last_checkpoint:
            lines.append(f"Last checkpoint  {os.path.relpath(self.last_checkpoint)}")
        if go_on:
            lines.append(f"To go on         {go_on}")
        if any(Path(folder).glob("tensorboard/events*")):
            lines.append(f"TensorBoard      {tensorboard_command(folder)}")
        return "\n".join(lines)

    def _table(self) -> list[str]:
        """Metrics of the splits side by side, the run's other figures below."""
        rows: dict[str, dict[str, float]] = {}
        others: dict[str, float] = {}
        for name, value in self.metrics.items():
            split, _, metric = name.partition("/")
            if split in _SPLITS and metric:
                rows.setdefault(metric, {})[split] = value
            else:
                others[name] = value
        width = max(map(len, [*rows, *others]), default=0)
        header = " " * width + "".join(f"{split:>12}" for split in _SPLITS)
        body = [
            f"{metric:<{width}}" + "".join(f"{_number(values.get(split)):>12}" for split in _SPLITS)
            for metric, values in rows.items()
        ]
        tail = [f"{name:<{width}}{_number(value):>12}" for name, value in others.items()]
        return ([header, *body] if rows else []) + tail


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def tensorboard_command(folder: str) -> str:
    """Return the command that opens TensorBoard on ``folder``, as this environment can run it from here."""
    program = (
        "tensorboard" if shutil.which("tensorboard") else _from_here(Path(sys.executable).with_name("tensorboard"))
    )
    return f"{shlex.quote(program)} --logdir {shlex.quote(_from_here(folder))}"


def _from_here(path: str | Path) -> str:
    """The path relative to the working directory if it lies below it, else as it is."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith(os.pardir) else relative
