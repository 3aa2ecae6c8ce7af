"""A checkpoint of a Trainer at any moment, as one that can be gone on from, in a file that is always whole."""

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from lightning_gradtools._lightning.strategy import is_strategy

_COUNTS = ("ready", "started", "processed", "completed")


def saves_alone(trainer: Trainer) -> bool:
    """Say whether this process can save without the others: rank 0 holds the whole state, and waits for nobody."""
    return trainer.world_size == 1 or is_strategy(trainer, "DDPStrategy", "SingleDeviceStrategy")


def validation_follows(trainer: Trainer) -> bool:
    """Say whether the batch that ends is followed by validation."""
    loop = trainer.fit_loop
    return loop._data_fetcher is not None and loop.epoch_loop._should_check_val_fx(loop._data_fetcher)


def ends_epoch(trainer: Trainer) -> bool:
    """Say whether the latest batch is the last of its epoch."""
    return trainer.fit_loop.epoch_loop._num_ready_batches_reached()


def batches_processed(trainer: Trainer) -> int:
    """Return the number of batches that training is through with in this run, over all epochs."""
    total = trainer.fit_loop.epoch_loop.batch_progress.total
    return int(total.processed)  # type: ignore[attr-defined]


class NotSavedError(Exception):
    """A checkpoint could not be written. All ranks raise it; on that which failed it has the reason as its cause."""


def save(trainer: Trainer, path: Path, *, alone: bool = False) -> None:
    """Save the whole state of ``trainer`` to ``path``; what is there stays whole until the new one is.

    Lightning writes to the system's folder for temporary files and moves that to the path, which is a copy where the
    two are on different disks: a kill in the middle leaves half a file. Here it lies beside ``path`` and is renamed.

    Args:
        trainer: in ``fit``.
        path: of a file; of a folder where the strategy saves shards.
        alone: other ranks are not here, and may never be.

    Raises:
        NotSavedError: on all ranks, if one could not write, as on a full disk; what was there is there still.
    """
    # Outside of what is caught: ranks gather their state here, and one that failed and went on would meet the others
    # at the wrong place.
    checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
    settle(
        checkpoint["loops"]["fit_loop"],
        validating=trainer.validating,
        epoch_ended=ends_epoch(trainer),
    )
    part = path.with_name(f"{path.name}.part")

    def write() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        trainer.strategy.save_checkpoint(checkpoint, part)

    def replace() -> None:
        if trainer.is_global_zero:
            _replace(part, path)

    try:
        for step in (write, replace):
            _together(trainer, step, alone)
    except NotSavedError:
        if trainer.is_global_zero:
            _remove(part)
        raise


def _together(trainer: Trainer, step: Callable[[], None], alone: bool) -> None:
    """Take ``step``, wait for the other ranks, and fail if one of them did."""
    cause: Exception | None = None
    try:
        step()
    except Exception as error:
        cause = error
    done = cause is None if alone else trainer.strategy.reduce_boolean_decision(cause is None, all=True)
    if not done:
        raise NotSavedError from cause


def settle(loop: dict[str, Any], *, validating: bool, epoch_ended: bool) -> None:
    """Count in the saved state of a ``fit_loop`` only what is done, so that the rest is done by who goes on from it.

    Lightning takes what was begun for done in places: it skips the rest of an epoch that was stopped within, the
    validation of which a part was done, and counts a batch twice.

    Args:
        loop: a checkpoint's ``["loops"]["fit_loop"]``; changed in place.
        validating: it was saved during validation.
        epoch_ended: the latest batch is the last of its epoch.
    """
    epoch, batch = loop["epoch_progress"], loop["epoch_loop.batch_progress"]
    counted = epoch["total"]
    loader = loop["state_dict"].get("combined_loader")
    if epoch_ended:  # a loader at its end would give nothing to the next epoch
        loop["state_dict"].pop("combined_loader", None)
    if counted["started"] < counted["ready"] or counted["processed"] == counted["ready"]:  # between two epochs
        _take_back(epoch, "ready", to="started")
        _take_back(epoch, "completed", to="processed")
        if epoch_ended:
            batch["current"] = dict.fromkeys(_COUNTS, 0)
            batch["is_last_batch"] = False
            return
        _take_back(epoch, "processed", "completed", by=1)  # stopped within: by max_steps, max_time, EarlyStopping, …
    if counted["processed"] == counted["started"]:
        return
    if batch["total"]["processed"] < batch["total"]["ready"]:  # amid a batch
        if loader:  # which the loader, whose state was saved, will not give again
            for count in batch["total"], batch["current"]:
                count.update(dict.fromkeys(_COUNTS, count["ready"]))
        else:
            _take_back(batch, "ready", "started", to="completed")
    if validating:  # from its first batch: the metrics of those before were not saved
        validation = loop["epoch_loop.val_loop.batch_progress"]
        for count in "total", "current":
            validation[count] = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
        validation["is_last_batch"] = False


def _take_back(progress: Mapping[str, Any], *names: str, to: str | None = None, by: int = 0) -> None:
    for count in progress["total"], progress["current"]:
        for name in names:
            count[name] = count[to] if to else count[name] - by


def _replace(part: Path, path: Path) -> None:
    if path.is_dir() and not path.is_symlink():  # a folder of shards cannot be replaced in one go
        old = path.with_name(f"{path.name}.old")
        _remove(old)
        path.rename(old)
        part.rename(path)
        shutil.rmtree(old)
    else:
        os.replace(part, path)


def _remove(path: Path) -> None:
    """Remove a file or folder, as far as that can be done."""
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        path.unlink(missing_ok=True)
