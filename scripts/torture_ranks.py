"""Lets one rank of two fail, and sees that none waits for another: training ends as it would have without us.

    python scripts/torture_ranks.py                       # all cases, some minutes
    python scripts/torture_ranks.py --only interrupt --strategy fsdp2

Every callback is on. A trial trains on two processes, under DDP and under FSDP2, and one thing goes wrong:

==================  ===================================================================================================
guarded call        what the guard runs raises on one rank, at a moment drawn at random, before or after its work
disk full           every file that we write on rank 0 is on a full disk
logger              the logger of rank 0 raises at everything that we log
memory              a probe runs out of memory on rank 1, at its first, second, ... evaluation; under FSDP2 before its
                    layers run, which wait for those of the other ranks
NaN                 the loss of one rank is NaN at one step
interrupt           Ctrl-C on one rank or on both, at a moment drawn at random
==================  ===================================================================================================

The same run without us is made first, with the same NaN or interrupt. A trial has failed if a rank takes ``SLACK``
seconds longer than it did there, ends otherwise (an interrupt apart, which ends a rank in several ways), or, where
neither NaN nor interrupt has changed training itself, with other weights. The exit status is 1 if one has failed.
"""

import argparse
import contextlib
import json
import logging
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

PRELOADED = ["lightning_gradtools.callbacks", "lightning_gradtools.tasks"]
_OURS = ("grad", "weight_norm", "update_ratio", "clip/", "diagnosis/", "curvature/", "backward", "learning")
SLACK = 10.0  # seconds longer than without us
LONGEST = 90.0  # seconds, then it is taken to hang
STEPS = 24
STRATEGIES = ("ddp", "fsdp2")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run of two ranks in which something goes wrong.

    Attributes:
        case: what, as in the table above.
        strategy: one of ``STRATEGIES``.
        ranks: on which.
        moment: number of the guarded call, of the probe's evaluation or of the step.
        after: of a guarded call, whether it raises after its work.
    """

    case: str
    strategy: str
    ranks: tuple[int, ...] = ()
    moment: int = 0
    after: bool = False

    def without_us(self) -> "Trial":
        """Return the trial whose training is the same, without callbacks of ours."""
        changes_training = self.case in ("NaN", "interrupt")
        return self if changes_training else Trial(case="nothing", strategy=self.strategy)


@dataclass(frozen=True)
class Ending:
    """How a rank's run ended.

    Attributes:
        how: "" if it went on to the end; else the name of what ended it.
        seconds: of the fit.
        steps: that were taken.
        weights: their sum and that of their squares, on this rank.
        told: warnings of ours.
    """

    how: str
    seconds: float
    steps: int
    weights: tuple[float, float]
    told: list[str]


def trials(seed: int) -> list[Trial]:
    """Return all trials."""
    draw = random.Random(seed)
    found = []
    for strategy in STRATEGIES:
        for rank in (0, 1):
            found += [
                Trial(case="guarded call", strategy=strategy, ranks=(rank,), moment=draw.randrange(400), after=after)
                for after in (False, True)
                for _ in range(5)
            ]
            found.append(Trial(case="NaN", strategy=strategy, ranks=(rank,), moment=draw.randrange(STEPS)))
            found.append(Trial(case="interrupt", strategy=strategy, ranks=(rank,), moment=draw.randrange(3, STEPS)))
        found.append(Trial(case="disk full", strategy=strategy, ranks=(0,)))
        found.append(Trial(case="logger", strategy=strategy, ranks=(0,)))
        found += [Trial(case="memory", strategy=strategy, ranks=(1,), moment=moment) for moment in (0, 1, 5)]
        found += [
            Trial(case="interrupt", strategy=strategy, ranks=(0, 1), moment=draw.randrange(3, STEPS)) for _ in (0, 1)
        ]
    return found


def run(trial: Trial, ours: bool) -> list[Ending | None]:
    """Return how each rank ended, None for one that did not."""
    context = multiprocessing.get_context("forkserver")
    with tempfile.TemporaryDirectory() as folder:
        pipes = [context.Pipe(duplex=False) for _ in (0, 1)]
        ranks = [
            context.Process(target=train, args=(rank, folder, trial, ours, pipes[rank][1]), daemon=True)
            for rank in (0, 1)
        ]
        for each in ranks:
            each.start()
        until = time.monotonic() + LONGEST
        endings = [pipe.recv() if pipe.poll(max(0.0, until - time.monotonic())) else None for pipe, _ in pipes]
        for each in ranks:
            each.kill()
            each.join()
    return endings


def train(rank: int, folder: str, trial: Trial, ours: bool, pipe: "Connection[Any, Any]") -> None:
    """Be one rank."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    with open(f"log_{rank}", "w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    names = {"TORCHELASTIC_RUN_ID": "torture", "MASTER_ADDR": "localhost", "MASTER_PORT": "0", "GROUP_RANK": 0}
    sizes = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ.update({key: str(value) for key, value in {**names, **sizes}.items()})
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    pipe.send(_fit(rank, trial, ours))


def _fit(rank: int, trial: Trial, ours: bool) -> Ending:
    import lightning.pytorch as pl
    import torch
    from lightning.pytorch.loggers import CSVLogger
    from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
    from torch import nn
    from torch.distributed.fsdp import fully_shard
    from torch.utils.data import DataLoader, TensorDataset

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    here = rank in trial.ranks

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))

        def configure_model(self) -> None:
            if trial.strategy == "fsdp2":
                for layer in (0, 2, 4):
                    fully_shard(self.net[layer], mesh=self.device_mesh["data_parallel"])  # type: ignore[index]

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y = batch
            loss = (self.net(x) - y).square().mean()
            return loss * float("nan") if here and trial.case == "NaN" and batch_idx == trial.moment else loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", (self.net(batch[0]) - batch[1]).square().mean(), sync_dist=True)

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if here and trial.case == "interrupt" and batch_idx == trial.moment:
                threading.Timer(
                    random.Random(trial.moment).uniform(0, 0.05), signal.raise_signal, [signal.SIGINT]
                ).start()

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    torch.manual_seed(0)
    module = Module()
    draw = torch.Generator().manual_seed(rank)
    data = TensorDataset(torch.randn(8 * STEPS, 4, generator=draw), torch.randn(8 * STEPS, 1, generator=draw))
    strategy = DDPStrategy() if trial.strategy == "ddp" else ModelParallelStrategy(2, 1)
    logger = CSVLogger(".", flush_logs_every_n_steps=1)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy=strategy,
        max_epochs=1,
        val_check_interval=8,
        log_every_n_steps=2,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=logger,
        callbacks=_callbacks(trial) if ours else [],
    )
    told: list[str] = []
    start, how = time.monotonic(), ""
    with (
        warnings.catch_warnings(record=True) as caught,
        _fault(rank, trial, logger) if ours else contextlib.nullcontext(),
    ):
        warnings.simplefilter("always")
        try:
            trainer.fit(module, DataLoader(data, batch_size=8), DataLoader(data, batch_size=64))
        except (Exception, KeyboardInterrupt, SystemExit) as error:
            how = type(error).__name__
    told = [str(each.message) for each in caught if "for the rest of this run" in str(each.message)]
    flat = torch.cat([_here(each).detach().reshape(-1).double() for each in module.parameters()])
    sums = float(flat.sum()), float(flat.square().sum())
    return Ending(how, time.monotonic() - start, trainer.global_step, sums, told)


def _here(tensor: Any) -> Any:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _callbacks(trial: Trial) -> list[Any]:
    from lightning_gradtools.callbacks import (
        GradientClipping,
        GradientMonitor,
        HessianSpectrum,
        LastCheckpoint,
        PathologyDetector,
    )

    folder = Path("full" if trial.case == "disk full" else "findings")
    folder.mkdir(exist_ok=True)
    return [
        GradientMonitor(2, weight_norm=True, update_ratio=True, cosine=trial.strategy == "ddp"),
        GradientClipping(max_norm=1e9),
        PathologyDetector(4, dirpath=str(folder), on_warning="log", on_critical="log"),
        HessianSpectrum(every_n_steps=6, top_k=1),
        LastCheckpoint(dirpath=str(folder / "checkpoints"), every_minutes=0.001),
    ]


@contextlib.contextmanager
def _fault(rank: int, trial: Trial, logger: Any) -> Iterator[None]:
    """Make it happen on this rank, if it is one of those."""
    from lightning_gradtools._lightning import fail_safe
    from lightning_gradtools.callbacks.hessian_spectrum import callback as spectrum

    if rank not in trial.ranks:
        yield
    elif trial.case == "guarded call":
        with _replaced(fail_safe, "attempt", _raising(fail_safe.attempt, trial.moment, trial.after, OSError)):
            yield
    elif trial.case == "memory":
        # A layer under FSDP2 that fails on one rank leaves the others in it, without us too: here it is before them.
        name = "training_loss" if trial.strategy == "ddp" else "kept"
        with _replaced(spectrum, name, _raising(vars(spectrum)[name], trial.moment, False, MemoryError)):
            yield
    elif trial.case == "disk full":
        full = Path("full")
        (full / "findings.jsonl").symlink_to("/dev/full")
        (full / "checkpoints").symlink_to("/dev/full")
        yield
    elif trial.case == "logger":
        log_metrics = logger.log_metrics

        def ours_only(metrics: Any, step: Any = None) -> None:
            if any(key.startswith(_OURS) for key in metrics):
                raise OSError("planted")
            log_metrics(metrics, step)

        logger.log_metrics = ours_only
        yield
    else:
        yield


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


def _raising(function: Callable[..., Any], at: int, after: bool, error: type[BaseException]) -> Callable[..., Any]:
    """Return ``function``, which raises at its call number ``at``, or at each if that is -1."""
    calls = 0

    def raising(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        hit, calls = at in (-1, calls), calls + 1
        if hit and not after:
            raise error("planted")
        result = function(*args, **kwargs)
        if hit:
            raise error("planted")
        return result

    return raising


def complaints(trial: Trial, bare: list[Ending | None], found: list[Ending | None]) -> list[str]:
    """Say what is not as it would have been without us."""
    wrong = []
    for rank, (before, after) in enumerate(zip(bare, found, strict=True)):
        if after is None and before is not None:
            wrong.append(f"rank {rank} hangs")
        elif after is not None and before is not None:
            if after.seconds > before.seconds + SLACK:
                wrong.append(f"rank {rank} took {after.seconds:.1f} s, without us {before.seconds:.1f}")
            # Of an interrupt a rank hears by a signal or from the other that is gone, whichever is first.
            if trial.case != "interrupt" and after.how != before.how:
                wrong.append(
                    f"rank {rank} ended with {after.how or 'nothing'}, without us with {before.how or 'nothing'}"
                )
            if trial.case not in ("NaN", "interrupt") and (after.steps, after.weights) != (
                before.steps,
                before.weights,
            ):
                wrong.append(f"rank {rank} has other weights")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", help="a case")
    parser.add_argument("--strategy", choices=STRATEGIES)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write how every rank ended")
    arguments = parser.parse_args()
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    chosen = [
        each
        for each in trials(arguments.seed)
        if arguments.only in (None, each.case) and arguments.strategy in (None, each.strategy)
    ]
    if not chosen:
        parser.error(f"--only {arguments.only}: must be one of {', '.join(sorted({t.case for t in trials(0)}))}")
    bare: dict[Trial, list[Ending | None]] = {}
    table: dict[tuple[str, str], list[tuple[Trial, list[str], float]]] = {}
    records = []
    for trial in chosen:
        twin = trial.without_us()
        if twin not in bare:
            bare[twin] = run(twin, ours=False)
        found = run(trial, ours=True)
        wrong = complaints(trial, bare[twin], found)
        longer = max((b.seconds - a.seconds for a, b in zip(bare[twin], found, strict=True) if a and b), default=0.0)
        table.setdefault((trial.case, trial.strategy), []).append((trial, wrong, longer))
        ends = [each and asdict(each) for each in found]
        records.append({"trial": asdict(trial), "wrong": wrong, "ranks": ends})
        for each in wrong:
            print(f"{trial}: {each}", file=sys.stderr, flush=True)
    print(f"{'case':16}{'strategy':10}{'trials':>8}{'as without us':>16}{'longer by at most':>20}")
    for (case, strategy), rows in table.items():
        good, most = sum(not wrong for _, wrong, _ in rows), max(longer for *_, longer in rows)
        print(f"{case:16}{strategy:10}{len(rows):8}{good:16}{most:18.1f} s")
    count = sum(not record["wrong"] for record in records)
    print(f"\n{count} of {len(records)} trials ended as without us")
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1))
    return 0 if count == len(records) else 1


if __name__ == "__main__":
    sys.exit(main())
