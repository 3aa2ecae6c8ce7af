"""How long a run is, in optimizer steps."""

import math

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler


def run_lengths(trainer: Trainer, pl_module: LightningModule) -> tuple[int | None, int | None]:
    """Return the optimizer steps of the run and of its first epoch, None where they are not known.

    ``Trainer.estimated_stepping_batches`` where that is right: it takes a run without an end for one of -1
    steps if its data has no length, does not know Lightning's GradientAccumulationScheduler, and under manual
    optimisation takes ``max_steps``, which counts all optimizers together, for the steps of each.
    """
    trainer.fit_loop.setup_data()  # without it, the number of batches is not known this early
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    changing = [c for c in callbacks if isinstance(c, GradientAccumulationScheduler)]

    def steps_in_epoch(epoch: int) -> int:
        window = changing[0].get_accumulate_grad_batches(epoch) if changing else trainer.accumulate_grad_batches
        return math.ceil(trainer.num_training_batches / window)

    bounds = []
    if trainer.max_steps != -1:
        together = 1 if pl_module.automatic_optimization else len(trainer.optimizers)
        bounds.append(math.ceil(trainer.max_steps / together))
    epoch_steps = None if math.isinf(trainer.num_training_batches) else steps_in_epoch(0)
    if epoch_steps is not None and trainer.max_epochs is not None and trainer.max_epochs != -1:
        bounds.append(sum(steps_in_epoch(epoch) for epoch in range(trainer.max_epochs)))
    return (max(1, min(bounds)) if bounds else None), epoch_steps
