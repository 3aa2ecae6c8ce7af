"""Strategies under which no callback sees whole gradients."""

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy

from lightning_gradtools.arguments import ArgumentError


def refuse_hidden_gradients(trainer: Trainer, callback: str, otherwise: str = "") -> None:
    """Refuse a run whose gradients ``callback``, given by name, could see only in part.

    FSDP1 leaves each rank a shard of flattened parameters, DeepSpeed keeps gradients in buffers of its own. Under
    FSDP2 a gradient is a ``DTensor``, which knows what it is a part of.

    Args:
        trainer: the run.
        callback: who asks.
        otherwise: another way out for the user.

    Raises:
        ArgumentError: under such a strategy.
    """
    if isinstance(trainer.strategy, (DeepSpeedStrategy, FSDPStrategy)):
        raise ArgumentError(
            f"strategy={type(trainer.strategy).__name__}: keeps whole gradients out of the reach of {callback};"
            f" use ModelParallelStrategy (FSDP2){otherwise}"
        )
