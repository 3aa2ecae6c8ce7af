"""The progress bar with the learning rate, and plain lines where there is no terminal."""

import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

from lightning_gradtools.arguments import integer


class ProgressBar(TQDMProgressBar):
    """Lightning's tqdm bar plus the learning rate of the first parameter group, less the version number.

    When standard output is not a terminal (a log file, a CI job) a bar is unreadable: then one plain line is printed
    after an epoch, at most ``max_lines`` over the run if its length is known, and after each validation inside one.

    Args:
        refresh_rate: batches between two updates of the bar.
        max_lines: epochs that get a line of their own over a run without a terminal.
    """

    def __init__(self, refresh_rate: int = 1, max_lines: int = 20) -> None:
        self._plain = not sys.stdout.isatty()
        super().__init__(refresh_rate=0 if self._plain else refresh_rate)
        self._max_lines = integer("max_lines", max_lines, at_least=1)
        self._printed_step = -1

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return what modules logged with ``prog_bar=True``, and ``lr``."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        if trainer.optimizers:
            metrics["lr"] = f"{trainer.optimizers[0].param_groups[0]['lr']:.3g}"
        return metrics

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print a line for a validation inside an epoch; the one at its end has the epoch's line."""
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == "fit" and not trainer.sanity_checking and not trainer.is_last_batch:
            self._print_line(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the epoch's line."""
        super().on_train_epoch_end(trainer, pl_module)
        if self._is_due(trainer):
            self._print_line(trainer, pl_module)

    def _print_line(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step = trainer.global_step
        if not self._plain or not trainer.is_global_zero or step == self._printed_step:
            return
        self._printed_step = step
        epochs = trainer.max_epochs or -1
        epoch = f"epoch {trainer.current_epoch + 1}" + (f"/{epochs}" if epochs > 0 else "")
        metrics = self.get_metrics(trainer, pl_module).items()
        words = [f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in metrics]
        print(f"{epoch:<12} step {step:<7}", "  ".join(words), flush=True)

    def _is_due(self, trainer: Trainer) -> bool:
        epochs = trainer.max_epochs or -1
        every = -(-epochs // self._max_lines)
        return epochs <= 0 or (trainer.current_epoch + 1) % every == 0 or trainer.current_epoch + 1 == epochs
