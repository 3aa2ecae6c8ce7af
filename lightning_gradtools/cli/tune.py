"""``tune=lr``: which learning rate, and which batch size, before any training is spent on the wrong ones."""

import math
import os

import lightning
from hydra.utils import instantiate
from omegaconf import DictConfig

from lightning_gradtools.arguments import integer
from lightning_gradtools.callbacks import GradientMonitor, lr_range_test

_MICRO_BATCHES = 4  # whose spread gives the gradient noise scale


def tune_learning_rate(
    cfg: DictConfig,
    module: lightning.LightningModule,
    datamodule: lightning.LightningDataModule | None,
    callbacks: list[lightning.Callback],
    loggers: list[object],
) -> float | None:
    """Run the range test, print its suggestion as an override, and the advice of the gradient noise scale beside it.

    Args:
        cfg: the composed config; ``cfg.tune`` is the group `tune/lr`.
        module: the module, with its optimizer; its weights are restored after the range test.
        datamodule: its data.
        callbacks: what must act before training, such as an initialisation.
        loggers: where the curve goes.

    Returns:
        The suggested learning rate; None if the loss falls at none.

    Raises:
        ArgumentError: if an argument of the group is out of its range.
    """
    integer("tune.noise_steps", cfg.tune.noise_steps, at_least=0)
    quiet = {"enable_progress_bar": False, "enable_checkpointing": False}
    trainer = instantiate(cfg.trainer, callbacks=callbacks, logger=loggers, **quiet)
    found = lr_range_test(
        trainer,
        module,
        datamodule,
        min_lr=cfg.tune.min_lr,
        max_lr=cfg.tune.max_lr,
        num_steps=cfg.tune.num_steps,
        folder=cfg.output_dir,
    )
    if trainer.is_global_zero:
        if found.suggestion is None:
            print(f"The loss falls at no rate between {cfg.tune.min_lr:g} and {cfg.tune.max_lr:g}.")
        else:
            print(f"Learning rate  {found.override(cfg.tune.override)}")
        if found.figure:
            print(f"Curve          {os.path.relpath(found.figure)}")
    if cfg.tune.noise_steps:
        _advise_batch_size(cfg, module, datamodule, callbacks, quiet)
    return found.suggestion


def _advise_batch_size(
    cfg: DictConfig,
    module: lightning.LightningModule,
    datamodule: lightning.LightningDataModule | None,
    callbacks: list[lightning.Callback],
    quiet: dict[str, bool],
) -> None:
    monitor = GradientMonitor(log_every_n_steps=1, noise_scale=True, top_k=0)
    trainer = instantiate(
        cfg.trainer,
        callbacks=[*callbacks, monitor],
        logger=False,
        max_steps=cfg.tune.noise_steps,
        max_epochs=-1,
        limit_val_batches=0,
        accumulate_grad_batches=_MICRO_BATCHES,
        **quiet,
    )
    trainer.fit(module, datamodule=datamodule)
    scale = float(trainer.callback_metrics.get("grad_noise/scale", math.nan))
    if not trainer.is_global_zero:
        return
    batch = getattr(datamodule, "batch_size", None)
    now = f" (now {batch})" if batch else ""
    if math.isnan(scale):
        print(f"Batch size     no advice{now}: in {cfg.tune.noise_steps} steps the noise drowned the estimate")
    else:
        print(f"Batch size     up to about {scale:.0f}{now} a larger one pays: that is the gradient noise scale so far")
