"""Runs Lightning's own tests with our callbacks in every Trainer, against controls, and counts what that changes.

    python scripts/lightning_suite.py CHECKOUT                             # everything, an hour or more on one core
    python scripts/lightning_suite.py CHECKOUT --sample 150                # a fixed sample: a quick look
    python scripts/lightning_suite.py CHECKOUT --only monitor,detector --workers 2 --json suite.json
    python scripts/lightning_suite.py CHECKOUT --only spectrum --match test_ema

CHECKOUT is a checkout of Lightning whose tests fit the release that is installed. From a clean machine, in this
repository (constraints.txt pins torch):

    git clone --depth 1 --branch 2.6.5 https://github.com/Lightning-AI/pytorch-lightning ../pytorch-lightning
    python -m venv .venv-lightning
    .venv-lightning/bin/python -m pip install -c constraints.txt -e '.[plots]' pytest pytest-timeout pytest-xdist \
        cloudpickle fastapi 'jsonargparse[signatures]' pandas psutil requests rich scikit-learn tensorboardX uvicorn
    OMP_NUM_THREADS=1 .venv-lightning/bin/python scripts/lightning_suite.py ../pytorch-lightning

The packages are those of the checkout's `requirements/pytorch/test.txt` and `extra.txt` that its CPU tests import; the
files themselves pin other releases than constraints.txt. Without the rest (onnx, bitsandbytes, torchvision, the
checkpoints of old releases) some tests are skipped or fail, with every injection alike. To test the package of another
worktree, put that worktree on PYTHONPATH.

How it is done:

1. All tests run once without a callback of ours (injection `none`). Chosen are those that call `Trainer.fit` in the
   process of the test and take less than `--limit-seconds`.
2. The chosen ones run with each injection: callbacks put where a Trainer sets up its own, so that a test that counts
   callbacks sees them. Three injections are controls: `noop`, a callback without a hook, `writer`, one that writes a
   number into `callback_metrics`, and `logger`, one that reads the clock and logs a number (some tests fake either).
   The records of the controls are kept in `--folder` and used again.
3. A test's record is compared with those of the controls (`lightning_suite_plugin.py` writes them). Every test starts
   from one seed. What the controls do not agree on among themselves is not compared.

Columns of the table, in tests unless it says otherwise:

===============  ======================================================================================================
tests            that were run
differences      whose outcome is that of no control
disabled         lines in which a callback of ours says that it disabled itself; in brackets those that do not count,
                 because a `raise` or `assert` of the test (in its logger, say) or the end of a mock was the error
left             after one of whose fits something is, or is no longer, on the module, its optimizers, the strategy or
                 torch, other than with the controls: hooks, `__dict__` entries, modes, the compile stance
hash differs     after one of whose runs weights, buffers, gradients, optimizer, random state, step, epoch or a metric
                 of the control are not those of the controls, bit for bit
refused          where a callback of ours raised its ArgumentError: the run is one that it says it is not for
not injected     with a run that is known beforehand to be refused (two that clip, curvature under manual optimization)
===============  ======================================================================================================

The schedule takes the place of the module's own schedulers and changes the learning rate, which is what it is for: of
its hashes only random state, step and epoch count, what any scheduler of torch leaves on an optimizer does not, and its
differences have to be read one by one for tests of the schedulers that it dropped.
"""

import argparse
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lightning
from lightning_suite_plugin import INJECTIONS, Record

HERE = Path(__file__).resolve().parent
CONTROLS = ("none", "noop", "writer", "logger")
OURS = tuple(name for name in INJECTIONS if name not in CONTROLS)
KEPT_BY_A_SCHEDULE = ("random", "progress")
LEFT_BY_ANY_SCHEDULER = ("._opt_called", ".step = ")  # torch counts the optimizer's steps with them
TIMEOUT = 120  # seconds after which a test is stopped, 50 times what a chosen one takes


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Where the tests are, where records go, and how many processes run them."""

    checkout: Path
    folder: Path
    workers: int


@dataclass(kw_only=True)
class Verdict:
    """What one injection changed."""

    injection: str
    tests: int = 0
    seconds: float = 0.0
    differences: dict[str, str] = field(default_factory=dict)
    disabled: dict[str, list[str]] = field(default_factory=dict)
    disabled_by_tests: dict[str, list[str]] = field(default_factory=dict)
    left: dict[str, list[str]] = field(default_factory=dict)
    hash_differs: dict[str, list[str]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    not_injected: dict[str, str] = field(default_factory=dict)

    @property
    def is_clean(self) -> bool:
        """Whether nothing is unexplained."""
        return not (self.differences or self.disabled or self.left or self.hash_differs)


# --- running
# ---------------------------------------------------------------------------------------------


def read(path: Path) -> tuple[dict[str, Record], list[str]]:
    """Return the records by test, and the tests that were started."""
    records: dict[str, Record] = {}
    started: list[str] = []
    for line in path.read_text().splitlines() if path.exists() else ():
        entry = json.loads(line)
        if "id" in entry:
            records[entry["id"]] = entry
        else:
            started.append(entry["started"])
    return records, started


def pytest_once(suite: Suite, injection: str, records: Path, arguments: Sequence[str], **environment: str) -> None:
    """Run pytest in a process of its own, which a test may kill."""
    search = [str(HERE), os.environ.get("PYTHONPATH", "")]
    if importlib.util.find_spec("lightning_gradtools") is None:
        search.append(str(HERE.parent))
    command = [sys.executable, "-m", "pytest", "tests_pytorch", "-q", "--no-header", "--tb=no", "--color=no"]
    command += ["-p", "no:cacheprovider", "-p", "lightning_suite_plugin", "--continue-on-collection-errors", *arguments]
    environment |= {
        "PYTHONPATH": os.pathsep.join(filter(None, search)),
        "LIGHTNING_SUITE_INJECTION": injection,
        "LIGHTNING_SUITE_RECORDS": str(records.resolve()),
    }
    with (suite.folder / f"{injection}.log").open("a") as log:
        subprocess.run(
            command,
            cwd=suite.checkout / "tests",
            env={**os.environ, **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )


def collect(suite: Suite) -> list[str]:
    """Return the ids of all tests."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "collected.jsonl"
        pytest_once(suite, "none", found, ["--collect-only"])
        if not found.exists():
            sys.exit(f"{suite.checkout}: no test was found; see {suite.folder / 'none.log'}")
        tests: list[str] = json.loads(found.read_text())["collected"]
        return tests


def run(suite: Suite, injection: str, tests: Sequence[str]) -> dict[str, Record]:
    """Return the records of ``tests``; what is already recorded in the folder is not run again."""
    path = suite.folder / f"{injection}.jsonl"
    # A signal ends one test, the other method the whole process.
    arguments = ["--timeout", str(TIMEOUT), "--timeout-method", "signal"]
    if suite.workers:
        arguments += ["-n", str(suite.workers)]
    while True:
        before, started_before = read(path)
        missing = [test for test in tests if test not in before]
        if not missing:
            return {test: before[test] for test in tests}
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as chosen:
            chosen.write("\n".join(missing))
            chosen.flush()
            pytest_once(suite, injection, path, arguments, LIGHTNING_SUITE_TESTS=chosen.name)
        after, started = read(path)
        ended = {test: "killed pytest" for test in started[len(started_before) :] if test not in after}
        if not ended and not any(test in after for test in missing):
            ended = dict.fromkeys(missing, "did not run")
        with path.open("a") as file:
            file.writelines(json.dumps(empty_record(test, outcome)) + "\n" for test, outcome in ended.items())


def empty_record(test: str, outcome: str) -> Record:
    """Return the record of a test that left none."""
    lists: Record = {name: [] for name in ("runs", "disabled", "refused", "not_injected")}
    return {"id": test, "outcome": outcome, "reason": "", "seconds": 0.0, **lists}


def fits(record: Record) -> bool:
    """Say whether the test called ``Trainer.fit`` in its own process."""
    return any(each["stage"] == "_fit_impl" for each in record["runs"])


def choose(suite: Suite, tests: Sequence[str], limit: float, sample: int | None) -> list[str]:
    """Return the tests that fit in less than ``limit`` seconds, or ``sample`` of them, always the same.

    For a sample only as many tests are run as it takes to find it.
    """
    order = list(tests) if sample is None else random.Random(0).sample(sorted(tests), len(tests))
    batch = len(order) if sample is None else 2 * sample
    chosen: list[str] = []
    for end in range(batch, len(order) + batch, batch):
        records = run(suite, "none", order[:end])
        chosen = [test for test, each in records.items() if fits(each) and each["seconds"] < limit][:sample]
        if sample is not None and len(chosen) == sample:
            break
    outcomes = Counter(each["outcome"] for each in records.values())
    print(
        f"{len(records)} of {len(tests)} tests:", ", ".join(f"{n} {outcome}" for outcome, n in outcomes.most_common())
    )
    print(f"{sum(map(fits, records.values()))} of them fit, {len(chosen)} are chosen", flush=True)
    return chosen


# --- comparing
# ---------------------------------------------------------------------------------------------


def changed_state(record: Record, controls: Sequence[Record], only: Collection[str] | None) -> list[str]:
    """Return what has another hash than all controls agree on, as ``key after run``."""
    if len({len(each["runs"]) for each in (record, *controls)}) > 1:
        return [] if len({len(each["runs"]) for each in controls}) > 1 else ["number of runs"]
    changed = []
    for index, run_ in enumerate(record["runs"]):
        states = [each["runs"][index]["state"] for each in controls]
        for key, value in states[0].items():
            agreed = all(state.get(key) == value for state in states)
            if agreed and run_["state"].get(key) != value and (only is None or key in only):
                changed.append(f"{key} after {run_['stage']} {index}")
    return changed


def left_over(record: Record, controls: Sequence[Record]) -> list[str]:
    """Return what is there after a run (``+``) or is not (``-``), other than with every control."""
    left = []
    for index, run_ in enumerate(record["runs"]):
        others = [Counter(each["runs"][index]["found"]) for each in controls if index < len(each["runs"])]
        if not others:
            continue
        most, least, found = others[0], others[0], Counter(run_["found"])
        for other in others[1:]:
            most, least = most | other, least & other
        left += [f"+ {name}" for name in (found - most).elements()]
        left += [f"- {name}" for name in (least - found).elements()]
    return sorted(set(left))


def on_purpose(line: Record, tests_of_lightning: Path) -> bool:
    """Say whether the error behind a line of a disabled callback is one that the test raises by itself."""
    file = Path(line["file"])
    raises = line["code"].startswith(("raise", "assert")) and file.is_relative_to(tests_of_lightning)
    return raises or file.match("unittest/mock.py")


def compare(
    injection: str, records: dict[str, Record], controls: Sequence[dict[str, Record]], tests_of_lightning: Path
) -> Verdict:
    """Compare each test with its controls."""
    verdict = Verdict(injection=injection, tests=len(records), seconds=sum(r["seconds"] for r in records.values()))
    for test, record in records.items():
        beside = [control[test] for control in controls]
        if record["not_injected"]:
            verdict.not_injected[test] = record["not_injected"][0]
        for line in record["disabled"]:
            which = verdict.disabled_by_tests if on_purpose(line, tests_of_lightning) else verdict.disabled
            which.setdefault(test, []).append(line["text"])
        if record["refused"]:
            verdict.refused[test] = record["refused"][0]
            continue
        alike = [each for each in beside if each["outcome"] == record["outcome"]]
        if not alike:
            verdict.differences[test] = f"{record['outcome']}: {record['reason']}"
        elif beside[0] in alike:  # a test that fails as with another control stops at another moment
            only = KEPT_BY_A_SCHEDULE if injection == "schedule" else None
            if changed := changed_state(record, alike, only):
                verdict.hash_differs[test] = changed
        left = left_over(record, alike or beside)
        if injection == "schedule":
            left = [each for each in left if not any(mark in each for mark in LEFT_BY_ANY_SCHEDULER)]
        if left:
            verdict.left[test] = left
    return verdict


# --- printing
# ---------------------------------------------------------------------------------------------


def count(found: dict[str, list[str]]) -> int:
    """Count the lines of all tests."""
    return sum(map(len, found.values()))


def table(verdicts: Sequence[Verdict]) -> str:
    """Return one row an injection."""
    names = ("injection", "tests", "differences", "disabled", "left", "hash differs", "refused", "not injected", "s")
    rows: list[tuple[str, ...]] = [names]
    for each in verdicts:
        disabled = f"{count(each.disabled)} ({count(each.disabled_by_tests)})"
        seen = (each.tests, len(each.differences), disabled, len(each.left), len(each.hash_differs))
        apart = (len(each.refused), len(each.not_injected), round(each.seconds))
        rows.append((each.injection, *map(str, seen + apart)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.rjust, row, widths)) for row in rows)


def listing(verdict: Verdict) -> str:
    """Return every unexplained test, under its reason."""
    listed = []
    for heading, found in (
        ("difference", {test: [reason] for test, reason in verdict.differences.items()}),
        ("disabled", verdict.disabled),
        ("left", verdict.left),
        ("hash differs", verdict.hash_differs),
        ("disabled by the test (does not count)", verdict.disabled_by_tests),
    ):
        by_reason: dict[str, list[str]] = {}
        for test, reasons in found.items():
            for reason in dict.fromkeys(reasons):
                by_reason.setdefault(" ".join(reason.split())[:300], []).append(test)
        for reason, tests in by_reason.items():
            listed += [f"{verdict.injection}: {heading}: {reason}", *(f"    {test}" for test in sorted(tests))]
    return "\n".join(listed)


def main() -> None:
    """Run the suite and print what was found; exit with 1 if anything is unexplained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="a checkout of Lightning")
    parser.add_argument("--only", default=",".join(OURS), help="injections, by commas (default: %(default)s)")
    parser.add_argument("--limit-seconds", type=float, default=2.2, help="slower tests are not chosen (default: 2.2)")
    parser.add_argument("--sample", type=int, help="how many of the chosen tests to run (default: all)")
    parser.add_argument("--match", default="", help="run only tests whose id contains this")
    parser.add_argument("--workers", type=int, default=0, help="processes, with pytest-xdist (default: one, without)")
    parser.add_argument("--folder", type=Path, default=Path("outputs/lightning_suite"), help="for records and logs")
    parser.add_argument("--json", type=Path, help="write everything that is printed, and the explained, to this file")
    arguments = parser.parse_args()
    injections = arguments.only.split(",")
    for name in injections:
        if name not in OURS:
            parser.error(f"--only: {name!r} must be one of {', '.join(OURS)}")
    suite = Suite(checkout=arguments.checkout.resolve(), folder=arguments.folder, workers=arguments.workers)
    if not (suite.checkout / "tests" / "tests_pytorch").is_dir():
        parser.error(f"{arguments.checkout}: must be a checkout of Lightning, with tests/tests_pytorch")
    suite.folder.mkdir(parents=True, exist_ok=True)

    tests = [test for test in collect(suite) if arguments.match in test]
    if not tests:
        parser.error(f"--match: no test has {arguments.match!r} in its id")
    version = (suite.checkout / "src" / "version.info").read_text().strip()
    print(f"Lightning {lightning.__version__}, tests of {version}", flush=True)
    chosen = choose(suite, tests, arguments.limit_seconds, arguments.sample)
    controls = [run(suite, name, chosen) for name in CONTROLS]
    verdicts = []
    for name in injections:
        begun = time.perf_counter()
        (suite.folder / f"{name}.jsonl").unlink(missing_ok=True)  # the package may have changed since
        verdicts.append(compare(name, run(suite, name, chosen), controls, suite.checkout / "tests"))
        verdicts[-1].seconds = time.perf_counter() - begun
        print(f"{name}: {verdicts[-1].seconds:.0f} s", flush=True)
    print(f"\n{table(verdicts)}")
    for verdict in verdicts:
        print(f"\n{listing(verdict)}" if listing(verdict) else "", end="")
    if arguments.json:
        report: dict[str, Any] = {"lightning": lightning.__version__, "chosen": chosen}
        report["injections"] = [asdict(each) for each in verdicts]
        arguments.json.write_text(json.dumps(report, indent=1))
    sys.exit(0 if all(each.is_clean for each in verdicts) else 1)


if __name__ == "__main__":
    main()
