"""Runs on two ranks, of which one cannot save, that tests/callbacks/test_last_checkpoint.py looks at."""

import os
import warnings
from pathlib import Path
from unittest import mock

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from helpers.runs import Regression, batches, loader, trainer
from lightning_gradtools.callbacks import LastCheckpoint


class FullDisk(TorchCheckpointIO):
    """Is full at the ``failing`` saves of ``last.ckpt``, counted from 1, and leaves half a file then."""

    def __init__(self, *failing: int) -> None:
        self.failing, self.saves = failing, 0

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        self.saves += Path(path).name.startswith("last.ckpt")
        if Path(path).name.startswith("last.ckpt") and self.saves in self.failing:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        super().save_checkpoint(checkpoint, path, storage_options)


def one_rank_cannot_save(place):
    """Return what a run comes to, in which rank 0 cannot write, or not rename, the checkpoint of the second epoch."""
    module, renamed, rename = Regression(), [], os.replace

    def full(old, new):
        renamed.append(new)
        if place == "rename" and len(renamed) == 2:
            raise OSError(28, "No space left on device")
        rename(old, new)

    run = trainer(
        LastCheckpoint("run", every_minutes=None),
        strategy="ddp",
        devices=2,
        max_epochs=3,
        logger=False,
        enable_progress_bar=False,
        plugins=[FullDisk(*[2] * (place == "write"))],
    )
    seen = []
    with warnings.catch_warnings(record=True) as told, mock.patch("os.replace", full):
        warnings.simplefilter("always")
        module.on_train_epoch_end = lambda: seen.append((run.global_step, steps_saved()))
        run.fit(module, loader(batches()), loader(batches(2)))
    messages = [str(each.message) for each in told if "LastCheckpoint" in str(each.message)]
    return {"seen": [*seen, (run.global_step, steps_saved())], "messages": messages, "left": os.listdir("run")}


def steps_saved():
    """Return the step of the checkpoint that there is, None if there is none."""
    path = Path("run", "last.ckpt")
    return torch.load(path)["global_step"] if path.exists() else None
