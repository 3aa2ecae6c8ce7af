"""The progress bar with the learning rate, and one line an epoch where there is no terminal."""

import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar


class ProgressBar(TQDMProgressBar):
    """Lightning's tqdm bar plus the learning rate of the first parameter group, less the version number.

    When standard output is not a terminal (a log file, a CI job) a bar is unreadable: then one plain line is printed
    per epoch, at most ``max_lines`` over the run if its length is known.

    Args:
        refresh_rate: batches between two updates of the bar.
        max_lines: lines printed over a run without a terminal.
    """

    def __init__(self, refresh_rate: int = 1, max_lines: int = 20) -> None:
        self._plain = not sys.stdout.isatty()
        super().__init__(refresh_rate=0 if self._plain else refresh_rate)
        self._max_lines = max_lines

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return what modules logged with ``prog_bar=True``, and ``lr``."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        if trainer.optimizers:
            metrics["lr"] = f"{trainer.optimizers[0].param_groups[0]['lr']:.3g}"
        return metrics

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the epoch's line where there is no bar."""
        super().on_train_epoch_end(trainer, pl_module)
        if self._plain and trainer.is_global_zero and self._is_due(trainer):
            total = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else None
            epoch = f"epoch {trainer.current_epoch + 1}" + (f"/{total}" if total else "")
            metrics = self.get_metrics(trainer, pl_module)
            words = [
                f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
                for name, value in metrics.items()
            ]
            print(f"{epoch:<12} step {trainer.global_step:<7}", "  ".join(words), flush=True)

    def _is_due(self, trainer: Trainer) -> bool:
        total = trainer.max_epochs or -1
        if total <= 0:
            return True
        every = -(-total // self._max_lines)
        epoch = trainer.current_epoch + 1
        return epoch % every == 0 or epoch == total
