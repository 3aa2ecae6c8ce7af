"""Kills training at random moments, goes on from the last checkpoint, and compares with the run that was not killed.

    python scripts/torture_resume.py                                  # all cases, as many kills as the table has
    python scripts/torture_resume.py --case digits --kills 10 --seed 1

A case is a command line of ``gradtools-train`` with every callback on. Its processes are sent SIGKILL at a random
moment, or at one inside the writing of a checkpoint, a computation beside training, or what is logged; then
``gradtools-train resume=<folder>`` goes on, and so on to the end. What the last checkpoint then holds (weights,
optimizers, schedules, thresholds, findings, statistics, loops, the state of every callback), every point of every
series in TensorBoard's files, and ``findings.jsonl`` are compared bit by bit with the uninterrupted run's. Left out
is what says how long something took, and folders' names. A run that ends with something else than that kill, or that
does not go on, ends the script.
"""

import argparse
import contextlib
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PRELOADED = ["lightning_gradtools.callbacks", "lightning_gradtools.cli.train", "lightning_gradtools.tasks"]

EVERYTHING = (
    "callbacks/gradtools=[gradient_monitor,gradient_clipping,pathology_detector,hessian_spectrum,gradient_check]",
    "initialization=he",
    "callbacks.gradient_monitor.weight_norm=true",
    "callbacks.gradient_monitor.update_ratio=true",
    "callbacks.gradient_monitor.cosine=true",
    "callbacks.gradient_clipping.max_norm=null",
    "callbacks.gradient_clipping.percentile=50",
    "callbacks.pathology_detector.every_n_steps=5",
    "callbacks.hessian_spectrum.every_n_steps=20",
    "callbacks.hessian_spectrum.top_k=2",
    "callbacks.gradient_check.on_failure=warn",
    "callbacks.last_checkpoint.every_minutes=0.002",
)
SHORT_GPT = (
    "experiment=gpt_warmup",
    "trainer.max_steps=60",
    "trainer.val_check_interval=20",
    "data.batch_size=8",
    "data.max_chars=200000",
)


@dataclass(frozen=True)
class Case:
    """One run, as words of a command line."""

    words: tuple[str, ...]
    kills: int
    ranks: int = 1


CASES = {
    "digits": Case((*EVERYTHING, "trainer.max_epochs=8"), kills=100),
    "gpt": Case((*EVERYTHING, *SHORT_GPT), kills=100),
    "accumulation": Case(
        (
            *EVERYTHING,
            "trainer.max_epochs=8",
            "trainer.accumulate_grad_batches=3",
            "callbacks.gradient_monitor.noise_scale=true",
        ),
        kills=20,
    ),
    "ddp2": Case(
        (*EVERYTHING, "trainer.max_epochs=8", "trainer=ddp", "callbacks.gradient_monitor.noise_scale=true"),
        kills=20,
        ranks=2,
    ),
    # Where weights are split over ranks they cannot be checked or drawn anew, nor the gradient before be kept.
    "fsdp2": Case(
        (
            *(word for word in EVERYTHING if "cosine" not in word and "initialization" not in word),
            "trainer.max_epochs=8",
            "trainer=fsdp2",
        ),
        kills=20,
        ranks=2,
    ),
}

WHERE = ("at random", "in a checkpoint", "in a probe", "while logging")
# Left out beside the clock: the score of the last validation, which Lightning's own callback does not read back.
LEFT_OUT = ("seconds", "overhead", "current_score")
_FINISHED = "the run is finished"


def train(rank: int, ranks: int, words: list[str], folder: str, log: str, aim: tuple[str, int, float]) -> None:
    """Be one process of ``gradtools-train``."""
    os.setsid()
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.chdir(folder)
    if ranks > 1:
        environment = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "GROUP_RANK": 0,
            "WORLD_SIZE": ranks,
            "LOCAL_WORLD_SIZE": ranks,
        }
        names = {"TORCHELASTIC_RUN_ID": "torture", "MASTER_ADDR": "localhost"}
        os.environ.update({key: str(value) for key, value in {**environment, **names}.items()})
    import torch

    torch.set_num_threads(1)
    if rank == 0:
        _arm(Path(f"{log}.hit"), *aim)
    sys.argv = ["gradtools-train", *words]
    from lightning_gradtools.cli.main import main

    main()


def _arm(hit: Path, where: str, entry: int, delay: float) -> None:
    """Leave ``hit`` and kill this process ``delay`` seconds after it entered ``where`` for the ``entry``-th time."""
    from lightning_gradtools.callbacks import last_checkpoint
    from lightning_gradtools.callbacks.gradient_monitor import callback as monitor
    from lightning_gradtools.callbacks.hessian_spectrum import callback as spectrum

    places = {
        "in a checkpoint": (last_checkpoint, "save"),
        "in a probe": (spectrum, "undisturbed"),
        "while logging": (monitor, "log_scalars"),
    }
    if where not in places:
        return
    module, name = places[where]
    original, entered = getattr(module, name), 0

    def entering(*args: Any, **kwargs: Any) -> Any:
        nonlocal entered
        entered += 1
        if entered == entry:
            threading.Timer(delay, kill).start()
        return original(*args, **kwargs)

    def kill() -> None:
        hit.touch()
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(module, name, entering)


def attempt(case: Case, words: list[str], folder: Path, log: Path, aim: tuple[str, int, float], limit: float) -> bool:
    """Run one part, killed after ``limit`` seconds at the latest; say whether it came to its end."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    os.environ["MASTER_PORT"] = str(random.randrange(20_000, 60_000))
    processes = [
        context.Process(target=train, args=(rank, case.ranks, words, str(folder), str(log), aim))
        for rank in range(case.ranks)
    ]
    for process in processes:
        process.start()
    end = time.monotonic() + limit
    while time.monotonic() < end and all(process.is_alive() for process in processes):
        time.sleep(0.002)
    if all(process.exitcode == 0 for process in processes if not process.is_alive()):
        # One may be done a moment before the other.
        for process in processes:
            process.join(max(0.0, min(2.0 if not process.is_alive() else 10.0, end - time.monotonic())))
    for process in processes:
        if process.is_alive() and process.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
        process.join()
    codes = [process.exitcode for process in processes]
    if 1 in codes and _FINISHED in log.read_text().rpartition("Error:")[2]:  # the kill came after its last checkpoint
        return True
    if any(code not in (0, -signal.SIGKILL) for code in codes) and -signal.SIGKILL not in codes:
        raise SystemExit(f"{' '.join(words)}\nended with {codes}; its output:\n{log.read_text()[-4000:]}")
    return codes == [0] * case.ranks


@dataclass
class Report:
    """What became of one case."""

    case: str
    kills: int = 0
    runs: int = 0
    before_the_first_checkpoint: int = 0
    where: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)
    seconds: float = 0.0


def torture(name: str, kills: int, seed: int, work: Path) -> Report:
    """Kill runs of a case until there were ``kills``, and compare each that came to its end."""
    case, chance, report = CASES[name], random.Random(seed), Report(name)
    log = work / "log"
    start = time.perf_counter()
    whole = work / "whole"
    whole.mkdir(parents=True)
    begun = time.monotonic()
    if not attempt(case, [*case.words, f"hydra.run.dir={whole}"], whole, log, ("", 0, 0.0), math.inf):
        raise SystemExit(
            f"{name}: the run that is not to be killed did not end; its output:\n{log.read_text()[-4000:]}"
        )
    duration = time.monotonic() - begun
    expected = result(whole)
    while report.kills < kills:
        report.runs += 1
        folder = work / f"run_{report.runs}"
        _until_the_end(case, kills, chance, duration, folder, log, report)
        found = result(folder)
        report.differences += [f"run {report.runs}: {text}" for text in differences(expected, found)]
        if report.differences:
            print(f"{name}: see {folder} and {whole}", *report.differences[:10], sep="\n  ", flush=True)
            break
        shutil.rmtree(folder)
    report.seconds = time.perf_counter() - start
    return report


def _until_the_end(
    case: Case, kills: int, chance: random.Random, duration: float, folder: Path, log: Path, report: Report
) -> None:
    while True:
        going_on = (folder / "checkpoints" / "last.ckpt").exists()
        if not going_on:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        words = [f"resume={folder}"] if going_on else [*case.words, f"hydra.run.dir={folder}"]
        last = report.kills >= kills
        where = "" if last else chance.choice(WHERE)
        # Starting and ending take about a second of each part; most kills are to come in between.
        limit = math.inf if last else duration * chance.uniform(0.15, 1.0)
        delay = chance.uniform(0.0, 0.004 if where != "in a probe" else 0.05)
        if attempt(case, words, folder, log, (where, chance.randint(1, 4), delay), limit):
            return
        hit = Path(f"{log}.hit")
        report.kills += 1
        report.where[where if hit.exists() else WHERE[0]] += 1
        hit.unlink(missing_ok=True)
        if not (folder / "checkpoints" / "last.ckpt").exists():
            report.before_the_first_checkpoint += 1


def result(folder: Path) -> dict[str, Any]:
    """Return by name all that a run came to."""
    import torch
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
    from tensorboard.compat.tensorflow_stub.errors import DataLossError

    last = folder / "checkpoints" / "last.ckpt"
    if last.is_dir():
        from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

        with tempfile.TemporaryDirectory() as temporary:
            dcp_to_torch_save(last, f"{temporary}/whole")
            weights = torch.load(f"{temporary}/whole", weights_only=False)
        checkpoint = {**torch.load(last / "meta.pt", weights_only=False), "shards": weights}
    else:
        checkpoint = torch.load(last, weights_only=False)
    series: dict[str, dict[int, set[float]]] = defaultdict(lambda: defaultdict(set))
    for file in sorted((folder / "tensorboard").glob("events.*")):
        events = LegacyEventFileLoader(str(file)).Load()
        with contextlib.suppress(DataLossError):  # the end of a file that a kill has cut off
            for event in events:
                for value in event.summary.value:
                    if value.HasField("simple_value"):
                        series[value.tag][event.step].add(value.simple_value)
                    elif value.tensor.float_val:
                        series[value.tag][event.step].add(value.tensor.float_val[0])
    for tag in [tag for tag in series if tag.startswith("test/") or tag == "epoch"]:
        del series[tag]  # of the test after training, which is not made again where a kill came in it
    findings = folder / "tensorboard" / "findings.jsonl"
    found = {
        "checkpoint": checkpoint,
        "series": {
            tag: {step: sorted(map(repr, found)) for step, found in each.items()} for tag, each in series.items()
        },
        "findings": findings.read_text().splitlines() if findings.exists() else [],
    }
    cleaned: dict[str, Any] = _without(str(folder), found)
    return cleaned


def _without(folder: str, value: Any) -> Any:
    """Return ``value`` with the name of its run's folder left out."""
    if isinstance(value, str):
        return value.replace(folder, "")
    if type(value) in (list, tuple):
        return type(value)(_without(folder, each) for each in value)
    if isinstance(value, dict):
        return {_without(folder, key): _without(folder, each) for key, each in value.items()}
    return value


def differences(expected: Any, found: Any, place: str = "") -> list[str]:
    """Say where ``found`` is not, bit by bit, ``expected``."""
    import torch

    if place.endswith(LEFT_OUT):
        return []
    if isinstance(expected, torch.Tensor) and isinstance(found, torch.Tensor):
        same = expected.dtype == found.dtype and torch.equal(
            torch.nan_to_num(expected.double()), torch.nan_to_num(found.double())
        )
        return [] if same else [f"{place}: another tensor"]
    if isinstance(expected, dict) and isinstance(found, dict):
        wrong = [f"{place}: {key!r} is missing" for key in expected.keys() - found.keys()]
        wrong += [f"{place}: {key!r} is new" for key in found.keys() - expected.keys()]
        for key in expected.keys() & found.keys():
            wrong += differences(expected[key], found[key], f"{place}/{key}")
        return wrong
    if isinstance(expected, (list, tuple)) and isinstance(found, (list, tuple)):
        wrong = [] if len(expected) == len(found) else [f"{place}: {len(found)} instead of {len(expected)}"]
        for position, pair in enumerate(zip(expected, found, strict=False)):
            wrong += differences(*pair, f"{place}/{position}")
        return wrong
    same = expected == found or (expected != expected and found != found)  # NaN is not itself
    return [] if same else [f"{place}: {found!r:.80} instead of {expected!r:.80}"]


def main() -> None:
    """Torture, print a table, and exit with status 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=list(CASES))
    parser.add_argument("--kills", type=int, help="of each case; by default 100 or 20")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path, help="where the runs are; by default a temporary one")
    arguments = parser.parse_args()
    os.environ["PYTHONWARNINGS"] = "ignore::UserWarning:multiprocessing.resource_tracker"  # of what a kill leaves
    reports = []
    print(f"{'case':<13} {'kills':>5} {'runs':>5}  {'where':<72} {'seconds':>7}  differences", flush=True)
    for name in arguments.case or list(CASES):
        with tempfile.TemporaryDirectory() as temporary:
            work = (arguments.folder or Path(temporary)) / name
            report = torture(name, arguments.kills or CASES[name].kills, arguments.seed, work)
        reports.append(report)
        where = ", ".join(f"{report.where[each]} {each}" for each in WHERE)
        counted = f"{report.case:<13} {report.kills:>5} {report.runs:>5}  {where:<72} {report.seconds:>7.0f}"
        print(f"{counted}  {len(report.differences) or 'none'}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps([vars(report) for report in reports], indent=2) + "\n")
    sys.exit(any(report.differences for report in reports))


if __name__ == "__main__":
    main()
