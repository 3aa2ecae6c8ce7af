"""The main job: a composed config in, a trained network and its run folder out."""

import os
import shlex
import time
from pathlib import Path

import lightning
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig

from lightning_gradtools._lightning.flavour import is_overridden
from lightning_gradtools._lightning.strategy import starts_ranks_by_rerunning
from lightning_gradtools.arguments import ArgumentError, integer, number, one_of
from lightning_gradtools.callbacks import GradientMonitor
from lightning_gradtools.cli import run_folder
from lightning_gradtools.cli.composition import composition
from lightning_gradtools.cli.flavours import in_flavour_of
from lightning_gradtools.cli.ownership import decide_ownership, install_optimizer
from lightning_gradtools.cli.quiet import keep_quiet
from lightning_gradtools.cli.remedies import offer_overrides
from lightning_gradtools.cli.resume import LAST
from lightning_gradtools.cli.run_folder import Progress
from lightning_gradtools.cli.summary import Summary
from lightning_gradtools.cli.tune import tune_learning_rate


def train(cfg: DictConfig) -> float | None:
    """Compose, fit, test and report one run.

    Args:
        cfg: what `conf/train.yaml` composes to.

    Returns:
        The metric named by ``cfg.objective``, for a sweeper to optimise; None if the run did not log it.

    Raises:
        ArgumentError: if the config cannot work.
    """
    _check(cfg)
    keep_quiet(in_memory_data=str(cfg.data._target_).startswith("lightning_gradtools."))
    lightning.seed_everything(cfg.seed, workers=True, verbose=False)
    torch.set_float32_matmul_precision(cfg.float32_matmul_precision)

    datamodule = instantiate(cfg.data) if cfg.data._target_ else None
    module = instantiate(cfg.model)
    cfg = in_flavour_of(module, datamodule, cfg)
    ownership = decide_ownership(module, cfg)
    if ownership.installs_optimizer:
        install_optimizer(module, instantiate(cfg.optimizer))
    initialization = [instantiate(cfg.initialization)] if cfg.initialization else []
    loggers = [instantiate(node) for node in cfg.logger.values() if node]
    if cfg.tune:
        return tune_learning_rate(cfg, module, datamodule, initialization, loggers)
    schedule = [instantiate(cfg.schedule)] if ownership.schedule_from_config else []
    callbacks = [*initialization, *(instantiate(node) for node in cfg.callbacks.values() if node), *schedule]
    offer_overrides(callbacks, cfg, ownership)
    trainer: lightning.Trainer = instantiate(cfg.trainer, callbacks=callbacks, logger=loggers)
    _refuse_a_sweep_of_reruns(trainer, cfg)
    start = _start(trainer, cfg)

    if trainer.is_global_zero:
        run_folder.append_to_csv(loggers, start.steps)
        run_folder.record(cfg)
        print(composition(cfg, module, ownership))
    started, last, finished_at = time.perf_counter(), Path(cfg.output_dir) / LAST, None
    try:
        trainer.fit(module, datamodule=datamodule, ckpt_path=cfg.ckpt_path)
        metrics = dict(trainer.callback_metrics)
        if cfg.test and not cfg.trainer.get("fast_dev_run") and _can_test(module, datamodule):
            best = getattr(trainer.checkpoint_callback, "best_model_path", "") or None  # None: the weights as they are
            trainer.test(module, datamodule=datamodule, ckpt_path=best, verbose=False)
            metrics |= trainer.callback_metrics
        finished_at = Progress.of(last).steps if last.exists() else None
    finally:  # an interrupt or a crash loses nothing of what was computed before it
        metrics = locals().get("metrics", dict(trainer.callback_metrics))
        seconds = time.perf_counter() - started
        summary = Summary.of(
            trainer,
            metrics,
            seconds=seconds,
            resumed_at=start.steps,
            last_checkpoint=last,
            finished_at=finished_at,
        )
        if trainer.is_global_zero and (summary.metrics or summary.last_checkpoint):
            run_folder.record_summary(cfg.output_dir, summary)
            print(summary.text(cfg.output_dir, _gradients(callbacks), _to_go_on(trainer, summary)))
    return summary.metrics.get(cfg.objective)


def _check(cfg: DictConfig) -> None:
    """Refuse what would fail later, and less clearly."""
    integer("seed", cfg.seed, at_least=0)
    one_of("float32_matmul_precision", cfg.float32_matmul_precision, ("highest", "high", "medium"))
    one_of("objective_mode", cfg.objective_mode, ("min", "max"))
    for key in ("max_epochs", "max_steps", "accumulate_grad_batches", "log_every_n_steps"):
        if cfg.trainer.get(key) is not None:
            integer(f"trainer.{key}", cfg.trainer[key], at_least=-1)
    if "lr" in cfg.optimizer:
        number("optimizer.lr", cfg.optimizer.lr, at_least=0)


def _start(trainer: lightning.Trainer, cfg: DictConfig) -> Progress:
    """Where the run begins.

    Raises:
        ArgumentError: if it is to go on in its own folder, and nothing is left to do there.
    """
    if cfg.ckpt_path is None or not Path(cfg.ckpt_path).exists():
        return Progress(epochs=0, steps=0)
    start = Progress.of(Path(cfg.ckpt_path))
    in_its_folder = Path(cfg.ckpt_path) == Path(cfg.output_dir) / LAST
    if in_its_folder and start.is_the_end(trainer) and run_folder.is_finished(cfg.output_dir, start):
        by_steps = 0 <= trainer.max_steps <= start.steps
        more = f"trainer.max_steps={2 * trainer.max_steps}" if by_steps else f"trainer.max_epochs={2 * start.epochs}"
        raise ArgumentError(
            f"resume={_from_here(cfg.output_dir)}: the run is finished ({start}); to go on with it, give it more, as"
            f" by {more}"
        )
    return start


def _to_go_on(trainer: lightning.Trainer, summary: Summary) -> str | None:
    """The command that goes on with the run; None if nothing is left to do, or there is no checkpoint to do it from."""
    if summary.last_checkpoint is None:
        return None
    if summary.finished_at is not None and Progress.of(Path(summary.last_checkpoint)).is_the_end(trainer):
        return None
    return shlex.join(["gradtools-train", f"resume={_from_here(str(Path(summary.last_checkpoint).parents[1]))}"])


def _from_here(path: str) -> str:
    relative = os.path.relpath(path)
    return path if relative.startswith(os.pardir) else relative


def _gradients(callbacks: list[lightning.Callback]) -> list[str]:
    """The table of what a monitor among ``callbacks`` saw of each layer; ddp_spawn leaves that in other processes."""
    monitor = next((callback for callback in callbacks if isinstance(callback, GradientMonitor)), None)
    return monitor.table().splitlines() if monitor else []


def _can_test(module: lightning.LightningModule, datamodule: lightning.LightningDataModule | None) -> bool:
    source = module if datamodule is None else datamodule
    return is_overridden("test_step", module) and is_overridden("test_dataloader", source)


def _refuse_a_sweep_of_reruns(trainer: lightning.Trainer, cfg: DictConfig) -> None:
    """Lightning's ``ddp`` starts a rank by running the command line again; with ``-m`` in it that is a sweep each."""
    in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    if in_sweep and starts_ranks_by_rerunning(trainer):
        raise ArgumentError(
            f"trainer.strategy={cfg.trainer.strategy!r}: cannot run in a sweep, because every process would"
            " run the whole sweep again; must be ddp_spawn or ddp_fork (trainer=ddp trainer.strategy=ddp_spawn)"
        )
