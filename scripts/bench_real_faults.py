"""Whether the detector names what is wrong with faulty programs that people have published.

    python scripts/bench_real_faults.py                           # all programs, 5 seeds each
    python scripts/bench_real_faults.py --half report --json real_faults.json
    python scripts/bench_real_faults.py --only so-48385830 --seeds 1 --verbose

Each program (`real_faults/programs/`) was published with a fault and a repair: posts on Stack Overflow and
repositories of DeepFD's benchmark, networks of AutoTrainer's, silent errors of TrainCheck's. Here they are written anew
in PyTorch from their layers, initialisation, optimizer, loss, scale of data and patch, faulty and repaired, and trained
by Lightning with its defaults and a ``PathologyDetector`` with its own. What was wrong (``labels``) is what the record
says; what the record cannot tell, or PyTorch not have, is left out (`real_faults/left_out.py`).

Of one program and seed:

===================  ==================================================================================================
detected             the faulty run has a finding at ``warning`` or above, which may have been resolved
diagnosed            the kind of one of these, or its first remedy, names a label (`real_faults/diagnosis.py`)
flagged on repaired  the repaired run has one
score                accuracy or share of variance explained, on the training set: what the repair is good for
===================  ==================================================================================================

Beside ours stand the verdicts that others have published on the same programs (`real_faults/verdicts.py`). Half of the
programs, by a digest of their name, are only reported: no rule may be chosen by what is said of them.
"""

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from real_faults.left_out import LEFT_OUT
from real_faults.measure import TWINS, run
from real_faults.program import HALVES, Program
from real_faults.programs import programs
from real_faults.report import report

SEEDS = 5
Job = tuple[str, str, int]  # program, twin, seed


def perform(job: Job) -> dict[str, Any] | str:
    """Do one run in a worker; return its result, or what went wrong."""
    name, twin, seed = job
    torch.set_num_threads(1)
    try:
        return run(programs()[name], twin, seed)
    except Exception as error:  # one run that fails must not take the others with it
        return f"{twin} {name} seed {seed}: {type(error).__name__}: {error}"


def run_all(jobs: Sequence[Job], workers: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the results of all jobs, in their order, and the failures."""
    results: list[dict[str, Any]] = []
    failures: list[str] = []
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for done, result in enumerate(pool.imap(perform, jobs), start=1):
            if sys.stderr.isatty():
                print(f"\r{done}/{len(jobs)} runs", end="\n" if done == len(jobs) else "", file=sys.stderr)
            if isinstance(result, str):
                failures.append(result)
            else:
                results.append(result)
    return results, failures


def described(program: Program) -> dict[str, Any]:
    """Return what the JSON says of a program."""
    return {
        "source": str(program.source),
        "half": program.half,
        "labels": sorted(map(str, program.labels)),
        "link": program.link,
        "note": program.note,
    }


def main() -> int:
    known = programs()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=known, metavar="NAME", help="only these programs")
    parser.add_argument("--half", choices=HALVES, help="only this half")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was found")
    parser.add_argument("-v", "--verbose", action="store_true", help="print a row a program")
    arguments = parser.parse_args()

    chosen = [
        each
        for each in known.values()
        if arguments.half in (None, each.half) and (not arguments.only or each.name in arguments.only)
    ]
    began = time.perf_counter()
    jobs = [(each.name, twin, seed) for each in chosen for seed in range(arguments.seeds) for twin in TWINS]
    results, failures = run_all(jobs, arguments.workers)
    ran = {result["program"] for result in results}
    print(report([each for each in chosen if each.name in ran], results, verbose=arguments.verbose))
    print(f"\n{len(results)} runs in {time.perf_counter() - began:.0f} s; {len(LEFT_OUT)} of the record left out")
    for failure in failures:
        print(f"FAILED {failure}")
    if arguments.json:
        found = {
            "programs": {each.name: described(each) for each in chosen},
            "left_out": LEFT_OUT,
            "runs": results,
            "failures": failures,
        }
        arguments.json.write_text(json.dumps(found, indent=1))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
