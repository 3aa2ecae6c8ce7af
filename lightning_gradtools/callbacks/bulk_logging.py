"""All scalars of a step to every logger at once.

``self.log`` would cost hundreds of microseconds a key, on the step that logs it and on every later one.
"""

from collections.abc import Mapping

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger


def log_scalars(trainer: Trainer, scalars: Mapping[str, float], step: int) -> None:
    """Write ``scalars`` to all loggers of ``trainer`` under ``step``, once for all ranks.

    TensorBoard gets them as one event, any other logger in one call of its ``log_metrics``.
    """
    if not trainer.is_global_zero:
        return
    for logger in trainer.loggers:
        if not _log_as_one_event(logger, scalars, step):
            logger.log_metrics(dict(scalars), step)


def _log_as_one_event(logger: Logger, scalars: Mapping[str, float], step: int) -> bool:
    if not isinstance(logger, TensorBoardLogger):
        return False
    writer = logger.experiment
    if not type(writer).__module__.startswith("torch."):  # tensorboardX has protobufs of its own
        return False
    from tensorboard.compat.proto.summary_pb2 import Summary

    summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()])
    writer._get_file_writer().add_summary(summary, step)
    return True


def lightning_step(trainer: Trainer) -> int:
    """Return the x-coordinate that Lightning gives to what ``self.log`` logs in this batch.

    It counts batches that ended in a step, whatever the number of optimizers, unlike ``trainer.global_step``.
    """
    return trainer.fit_loop.epoch_loop._batches_that_stepped
