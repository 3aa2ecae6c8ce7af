"""All scalars of a step to every logger at once, histograms and figures to TensorBoard.

For scalars, ``self.log`` would cost hundreds of microseconds a key, on the step that logs it and on every later one.
"""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from lightning_gradtools.gradients.histogram import Histogram

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def log_scalars(trainer: Trainer, scalars: Mapping[str, float], step: int) -> None:
    """Write ``scalars`` to all loggers of ``trainer`` under ``step``, once for all ranks.

    TensorBoard gets them as one event, any other logger in one call of its ``log_metrics``.
    """
    if not trainer.is_global_zero:
        return
    for logger in trainer.loggers:
        writer = _summary_writer(logger)
        # tensorboardX has protobufs of its own
        if writer is not None and type(writer).__module__.startswith("torch."):
            writer._get_file_writer().add_summary(_summary(scalars), step)
        else:
            logger.log_metrics(dict(scalars), step)


def log_histograms(trainer: Trainer, histograms: Mapping[str, Histogram], step: int) -> None:
    """Write ``histograms`` to the TensorBoard loggers of ``trainer``; Lightning's others have none."""
    if not trainer.is_global_zero or not histograms:
        return
    for logger in trainer.loggers:
        writer = _summary_writer(logger)
        if writer is None:
            continue
        for tag, found in histograms.items():
            writer.add_histogram_raw(
                tag,
                min=found.edges[0],
                max=found.edges[-1],
                num=sum(found.counts),
                sum=found.total,
                sum_squares=found.squares,
                bucket_limits=found.edges[1:],
                bucket_counts=found.counts,
                global_step=step,
            )


def log_figure(trainer: Trainer, tag: str, draw: Callable[[], "Figure"], step: int) -> None:
    """Write the figure that ``draw`` makes to the TensorBoard loggers of ``trainer``, if there are any.

    Without matplotlib (the extra ``plots``) nothing is drawn.
    """
    if not trainer.is_global_zero or not find_spec("matplotlib"):
        return
    for logger in trainer.loggers:
        writer = _summary_writer(logger)
        if writer is not None:
            writer.add_figure(tag, draw(), step)
            writer.flush()  # the last thing of many runs


def _summary_writer(logger: Logger) -> Any:
    return logger.experiment if isinstance(logger, TensorBoardLogger) else None


def _summary(scalars: Mapping[str, float]) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary

    summary = Summary()
    add = summary.value.add  # four times as fast as a list of `Summary.Value`
    for tag, value in scalars.items():
        add(tag=tag, simple_value=value)
    return summary


def publish(trainer: Trainer, scalars: Mapping[str, float]) -> None:
    """Put ``scalars`` into ``trainer.callback_metrics``, where ``EarlyStopping`` and sweeps look."""
    values = torch.tensor(list(scalars.values())).unbind()
    trainer.callback_metrics.update(zip(scalars, values, strict=True))


def lightning_step(trainer: Trainer) -> int:
    """Return the x-coordinate that Lightning gives to what ``self.log`` logs in this batch.

    It counts batches that ended in a step, whatever the number of optimizers, unlike ``trainer.global_step``.
    """
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def optimizer_suffix(trainer: Trainer, index: int) -> str:
    """Return what the keys of the optimizer at ``index`` end in: nothing where it is the only one."""
    return f"/optimizer_{index}" if len(trainer.optimizers) > 1 else ""
