"""The learning-rate range test, by Lightning's own finder."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_gradtools._lightning.module import plain_name
from lightning_gradtools._lightning.schedulers import RangeTestCurve, range_test
from lightning_gradtools._lightning.strategy import (
    gathers_nothing,
    is_strategy,
    require_automatic_optimization,
    require_whole_gradients,
)
from lightning_gradtools.arguments import ArgumentError, integer, number
from lightning_gradtools.reporting.figures.learning_rate import range_test_curve
from lightning_gradtools.reporting.loggers import log_figure

_BETA = 0.98  # as in Lightning's finder


@dataclass(frozen=True)
class LRRangeTest:
    """The result of a range test."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    """The smoothed loss at each rate, of all micro-batches and ranks together."""
    suggestion: float | None
    """The rate at which the loss falls fastest; None if it falls nowhere."""
    figure: Path | None
    """The curve as PNG; None without matplotlib (the extra ``plots``)."""

    def override(self, key: str) -> str:
        """Return the suggestion as an override of a configuration, such as ``optimizer.lr=0.0123``."""
        if self.suggestion is None:
            raise ArgumentError(
                "suggestion=None: must be a rate; the loss falls nowhere, so there is nothing to suggest"
            )
        return f"{key}={self.suggestion:.3g}"


def steepest_descent(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """Return the rate at which the loss falls fastest over the logarithm of the rate; None if nowhere.

    Smith 2017, "Cyclical Learning Rates", section 3.3, reads the rate off a curve like this. The slope is
    taken across a tenth of the curve. It is on the logarithmic axis, because on a linear one (as Lightning's
    own suggestion has it) the slope at small rates is divided by their tiny distance, so that noise there
    wins.

    Args:
        rates: exponentially spaced, (n,).
        losses: smoothed, (n,); the first tenth, not smoothed much yet, is left out.
    """
    half = max(1, len(rates) // 20)
    candidates = range(3 * half, len(rates) - half)
    slopes = {rates[i]: losses[i + half] - losses[i - half] for i in candidates}
    falling = {rate: slope for rate, slope in slopes.items() if math.isfinite(slope) and slope < 0}
    return min(falling, key=falling.__getitem__, default=None)


def smoothed(losses: Sequence[float]) -> list[float]:
    """Return running means with exponentially falling weights, those of the first without a bias to zero."""
    means, mean = [], 0.0
    for k, loss in enumerate(losses, start=1):
        mean = _BETA * mean + (1 - _BETA) * loss
        means.append(mean / (1 - _BETA**k))
    return means


def lr_range_test(
    trainer: Trainer,
    module: LightningModule,
    datamodule: LightningDataModule | None = None,
    *,
    min_lr: float = 1e-6,
    max_lr: float = 1.0,
    num_steps: int = 100,
    folder: str | Path | None = None,
) -> LRRangeTest:
    """Train for a moment while the learning rate grows exponentially, and see where the loss falls fastest.

    Weights, optimizer, buffers and the random state are restored; nothing is trained. The trainer's callbacks
    run their ``setup``, ``on_fit_start`` and ``teardown``, so that an initialisation takes part; give it none
    that write. The finder takes the schedule out and sets one learning rate for all parameter groups.

    The curve is saved as ``lr_range_test.png`` and as the TensorBoard figure ``learning_rate/range_test``.

    Args:
        trainer: whose ``max_steps``, epochs and loggers the test leaves alone; of one optimizer.
        module: the module.
        datamodule: its data.
        min_lr: the first learning rate.
        max_lr: the last.
        num_steps: the number of optimizer steps; a loss that exceeds four times its least ends the test.
        folder: where the PNG goes; left out, the trainer's ``default_root_dir``.

    Raises:
        ArgumentError: if an argument is out of its range; for manual optimisation; for
            strategies that split weights over ranks (FSDP, tensor parallelism, DeepSpeed), or
            that fork or spawn ranks.
    """
    number("min_lr", min_lr, above=0)
    number("max_lr", max_lr, above=min_lr)
    integer("num_steps", num_steps, at_least=20)
    require_whole_gradients(trainer, "lr_range_test")
    if is_strategy(trainer, "ModelParallelStrategy"):
        raise ArgumentError(
            "strategy=ModelParallelStrategy: lr_range_test cannot put back weights that are split over ranks; make the"
            " test on one device or under DDP"
        )
    if gathers_nothing(trainer):
        raise ArgumentError(
            f"strategy={type(trainer.strategy).__name__}, ranks forked or spawned: it leaves what lr_range_test finds"
            ' in the processes it starts; use "ddp", or one device'
        )
    require_automatic_optimization(module, "the finder looks at the loss and the rate of a step that Lightning takes")
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        raise ArgumentError("fast_dev_run=True: must be off for a range test, which Lightning else skips")
    curve = RangeTestCurve()
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    finder = range_test(trainer, min_lr, max_lr, num_steps)
    trainer.callbacks = [*callbacks, finder]  # type: ignore[attr-defined]
    weights = {plain_name(name): value for name, value in copy.deepcopy(module.state_dict()).items()}
    try:
        with isolate_rng(), curve.watching(trainer):
            trainer.fit(module, datamodule=datamodule)
    finally:
        trainer.callbacks = callbacks  # type: ignore[attr-defined]
        # What configure_model has added or compiled in the meantime has other names, or was not there.
        now = module.state_dict()
        module.load_state_dict({name: weights.get(plain_name(name), value) for name, value in now.items()})
    rates, losses = curve.rates, smoothed(curve.losses)
    suggestion = steepest_descent(rates, losses)
    path = None
    if find_spec("matplotlib") and trainer.is_global_zero:
        path = Path(folder or trainer.default_root_dir) / "lr_range_test.png"
        figure = range_test_curve(rates, losses, suggestion)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
        log_figure(trainer, "learning_rate/range_test", lambda: figure, 0)
    return LRRangeTest(tuple(rates), tuple(losses), suggestion, path)
