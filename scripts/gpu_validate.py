"""Shows what only a CUDA device can show, in one table: waits of the host, verdicts on the device, kernels, costs.

    scripts/gpu_validate.sh                                    # on a machine with a CUDA device
    scripts/gpu_validate.sh --markdown gpu.md --json gpu.json
    scripts/gpu_validate.sh --device cpu --small               # that the checks work, anywhere, in a minute

Columns: what was measured, and on which device; what was expected; whether it is so. A row that says nothing on a CPU
"needs a CUDA device" there; the others are made there too, where they show that the checks work, and what our callbacks
do on a CPU, but nothing about a GPU. Rows are named in ``scripts/gpu/``, a file each subject, and what they mean
stands in docs/gpu.md.

The exit status is 1 if a row failed, 2 if none did but some need a device that is not here, and else 0.
"""

import argparse
import json
import logging
import platform
import sys
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import lightning
import torch
from gpu import attention, compiled, cost, nonfinite, precision, process_group, waits
from gpu.check import Check, Row, Setting, exit_status, run
from gpu.runs import free_memory

COLUMNS = ("what", "on", "measured", "expected", "result")


def all_checks() -> list[Check]:
    """Return all checks, in the order of the table."""
    subjects = (waits, nonfinite, precision, attention, compiled, process_group, cost)
    return [check for subject in subjects for check in subject.checks()]


def machine(device: str) -> str:
    """Say in one line what the rows were measured with."""
    where = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} CPU"
    cuda = f", CUDA {torch.version.cuda}" if device == "cuda" else ""
    return f"{where}, torch {torch.__version__}{cuda}, lightning {lightning.__version__}"


def cells(row: Row) -> tuple[str, ...]:
    return row.name, row.device, row.measured, row.expected, row.result.value


def plain(row: Row) -> str:
    """Return a row for the terminal."""
    lines = [f"{row.result.value:20}{row.name}"]
    lines += [f"{'':20}{row.measured} (expected: {row.expected})"] if row.measured else []
    return "\n".join(lines)


def markdown(rows: Iterable[Row], title: str) -> str:
    """Return the table for a page of docs/."""
    lines = [title, "", f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells(row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str], checks: Sequence[Check] | None = None) -> int:
    """Make ``checks``, by default all, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], help="default: cuda where there is one")
    parser.add_argument("--small", action="store_true", help="a tiny GPT in place of GPT-2, and few rounds")
    parser.add_argument("--rounds", type=int, help="turns of each run whose time is taken (default 30; 3 if small)")
    parser.add_argument("--batch-size", type=int, default=4, help="sequences a batch of GPT-2; fits 16 GB with 512")
    parser.add_argument("--context-length", type=int, help="tokens a sequence (default 512; 16 if small)")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="only rows with one of these in their name")
    parser.add_argument("--json", type=Path, help="also write everything here")
    parser.add_argument("--markdown", type=Path, help="also write the table here, for docs/")
    given = parser.parse_args(arguments)
    device = given.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is none, or this torch was built without it")
    if given.rounds is not None and given.rounds < 3:
        parser.error(f"--rounds {given.rounds}: must be 3 or more, of which two warm up")
    chosen = [
        check
        for check in (all_checks() if checks is None else checks)
        if not given.only or any(word in check.name for word in given.only)
    ]
    if not chosen:
        parser.error(f"--only {' '.join(given.only)}: in no row's name")
    rows = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        setting = Setting(
            device=device,
            small=given.small,
            rounds=given.rounds or (3 if given.small else 30),
            batch_size=given.batch_size,
            context_length=given.context_length or (16 if given.small else 512),
            folder=Path(folder),
        )
        for check in chosen:
            rows.append(run(check, setting))
            free_memory(setting)
            print(plain(rows[-1]), flush=True)
    title = machine(device) + (", small" if given.small else f", batch {given.batch_size} x {setting.context_length}")
    counts = {result: sum(row.result is result for row in rows) for result in dict.fromkeys(row.result for row in rows)}
    print(f"\n{title}: " + ", ".join(f"{count} {result.value}" for result, count in counts.items()))
    if given.markdown:
        given.markdown.write_text(markdown(rows, title), encoding="utf-8")
    if given.json:
        found = {"machine": title, "rows": [asdict(row) for row in rows]}
        given.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return exit_status(rows)


if __name__ == "__main__":
    for logger in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    sys.exit(main(sys.argv[1:]))
