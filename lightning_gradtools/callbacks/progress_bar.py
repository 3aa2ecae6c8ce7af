"""The progress bar with the learning rate, and plain lines where there is no terminal."""

import sys
from functools import cache
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

from lightning_gradtools._lightning.flavour import counterpart, is_a
from lightning_gradtools._lightning.loop import callbacks_of
from lightning_gradtools.arguments import integer


class ProgressBar(TQDMProgressBar):
    """Lightning's tqdm bar plus the learning rate of the first parameter group, less the version number.

    When standard output is not a terminal (a log file, a CI job) a bar is unreadable: then one plain line is printed
    after an epoch, at most ``max_lines`` over the run if its length is known, and after each validation inside one.

    A Trainer of ``pytorch_lightning``, which takes this for no bar and adds one of its own, has this one instead from
    the start of the run.

    Args:
        refresh_rate: batches between two updates of the bar.
        max_lines: epochs that get a line of their own over a run without a terminal.
    """

    def __init__(self, refresh_rate: int = 1, max_lines: int = 20) -> None:
        self._given = refresh_rate, max_lines
        self._plain = not sys.stdout.isatty()
        super().__init__(refresh_rate=0 if self._plain else refresh_rate)
        self._max_lines = integer("max_lines", max_lines, at_least=1)
        self._printed_step = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Be the Trainer's only bar, at the start of a run."""
        super().setup(trainer, pl_module, stage)
        self._printed_step = -1
        bar = counterpart(trainer, "callbacks", "TQDMProgressBar")
        if bar not in type(self).__mro__:
            # The Trainer looks for its bar by class, and asks it for what to show and where to print.
            self.__class__ = _also_a(bar)
        left = [each for each in callbacks_of(trainer) if each is self or not is_a(each, "ProgressBar")]
        trainer.callbacks = left  # type: ignore[attr-defined]

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


@cache
def _also_a(bar: type) -> type[ProgressBar]:
    """Return the class of this file's bar that is one for the other flavour's Trainer too; all it does is as before."""
    return type("ProgressBar", (ProgressBar, bar), {"__module__": __name__, "__reduce__": _as_it_was_made})


def _as_it_was_made(self: ProgressBar) -> tuple[Any, ...]:
    """Copy and pickle what the user made: the next Trainer's ``setup`` comes before anything is shown."""
    return ProgressBar, self._given
