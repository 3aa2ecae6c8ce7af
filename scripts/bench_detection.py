"""How well sick training runs are told from healthy ones: our detector and the rules that others publish.

    python scripts/bench_detection.py                          # all recipes, 5 seeds each
    python scripts/bench_detection.py --half report --json detection.json
    python scripts/bench_detection.py --quick                  # one seed of the report half
    python scripts/bench_detection.py --only sigmoid_10 --seed 0 -v

Each recipe (`detection/recipes/`, a file for what its recipes have in common) is trained twice from the same seed:
once with a recorder, whose measurements give the labels (`detection/labels.py`) and the rivals' verdicts
(`detection/rivals.py`), and once with `PathologyDetector` alone. The weights of the two must agree bit for bit. Runs
are kept in a folder by recipe, seed and a digest of the code that made them, so that an interrupted benchmark goes on,
and a new version of the detector costs only its own runs.

Each recipe says which half it belongs to. Those of `--half choose` are for choosing the detector's rules and
thresholds, those of `--half report` for reporting. The detector was made to be right about the former, so they cannot
tell how it does on a run that nobody had in mind. The latter were written without looking at the detector or at what
it says of them, and kept or changed by the measured outcome of their runs alone. They are the second such set: the
first was reported on, then looked at run by run, and is now to choose by. Once a rule was chosen by one of the second
set, a third is due.

The recipes of `--half fresh` are healthy runs alone. They were written after the detector's rules were last changed
and without looking at it, so that the false-alarm rate is also known on runs that no rule was changed by; of the
faults that the detector misses they say nothing. Those of `--half fourth` are the next such set, hard ones first:
methods of training whose losses rise, stand still, jump, are negative or mean nothing, and networks that are frozen,
sparse, routed or very deep. They too were written without looking at the detector, before it was asked.
"""

import argparse
import json
import multiprocessing
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from detection.labels import Outcome, outcome
from detection.recipe import HALVES, Recipe
from detection.recipes import recipes
from detection.report import OURS, Case, as_dict, report
from detection.rivals import NAMES
from detection.runs import cached, detector_version, read, recorder_version

SEEDS = 5
Job = tuple[str, str, str, int]  # record or watch, version, recipe, seed


def perform(job: tuple[Path, Job]) -> str | None:
    """Do one job in a worker; return what went wrong, if anything did."""
    folder, (what, version, name, seed) = job
    torch.set_num_threads(1)
    try:
        cached(folder, what, version, recipes()[name], seed)
    except Exception as error:  # one run that fails must not take the others with it
        return f"{what} {name} seed {seed}: {type(error).__name__}: {error}"
    return None


def show(recipe: Recipe, seed: int, folder: Path, versions: dict[str, str]) -> None:
    """Print one run: its outcome and what the detector and the rivals said of it."""
    run = cached(folder, "record", versions["record"], recipe, seed)
    twin = cached(folder, "record", versions["record"], recipes()[recipe.twin], seed)
    found = outcome(run, twin, recipe)
    print(f"\n{recipe.name}, seed {seed} ({recipe.half} half; {recipe.fault or 'healthy'}): {describe(found)}")
    for label in found.labels:
        grade = "is" if label.present else "borderline"
        print(f"  {grade:10} {label.kind:20} from {label.onset:4} {' '.join(label.layers)}")
    if "watch" in versions:
        watched = cached(folder, "watch", versions["watch"], recipe, seed)
        print("  same weights" if watched["weights"] == run["weights"] else "  OTHER WEIGHTS than without the detector")
        for finding in watched["findings"]:
            where = finding["layer"] or "(whole model)"
            print(f"  {'said':10} {finding['kind']:20} at   {finding['step']:4} {where}: {finding['said']}")
    for rival, findings in run["rivals"].items():
        for finding in findings:
            print(f"  {rival:18} {finding['kind']:20} at {finding['step']:4} {finding['layer']}")


def describe(found: Outcome) -> str:
    return f"{found.verdict}, {found.progress:.2f} of its twin's progress"


def jobs(chosen: Sequence[Recipe], seeds: Sequence[int], versions: dict[str, str]) -> list[Job]:
    """Return all runs, seed by seed."""
    found = [
        (what, versions[what], name, seed)
        for seed in seeds
        for recipe in chosen
        for what, name in (("record", recipe.twin), ("record", recipe.name), ("watch", recipe.name))
        if what in versions
    ]
    return list(dict.fromkeys(found))


def run_all(todo: Sequence[Job], folder: Path, workers: int) -> list[str]:
    """Run what is not in the folder yet; return the failures."""
    todo = [job for job in todo if read(folder, *job) is None]
    failures = []
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for done, failure in enumerate(pool.imap_unordered(perform, [(folder, job) for job in todo]), start=1):
            if sys.stderr.isatty():
                print(f"\r{done}/{len(todo)} runs", end="\n" if done == len(todo) else "", file=sys.stderr)
            if failure:
                failures.append(failure)
    return failures


def gather(chosen: Sequence[Recipe], seeds: Sequence[int], folder: Path, versions: dict[str, str]) -> list[Case]:
    """Return the labelled runs that are in the folder."""
    cases = []
    for recipe in chosen:
        for seed in seeds:
            run, twin, watched = (
                read(folder, what, versions.get(what, ""), name, seed)
                for what, name in (("record", recipe.name), ("record", recipe.twin), ("watch", recipe.name))
            )
            if run is None or twin is None or (watched is None and "watch" in versions):
                continue
            said = dict(run["rivals"])
            if watched is not None:
                said[OURS] = watched["findings"]
                if watched["weights"] != run["weights"]:
                    print(f"FAILED {recipe.name} seed {seed}: the detector changed the weights")
            start, roots = run["measurements"][0], None if watched is None else watched["roots"]
            found = outcome(run, twin, recipe)
            cases.append(Case(recipe, seed, found, run["layers"], list(start["scale"]), said, roots))
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", choices=HALVES, help="only this half, or one of the two healthy sets")
    parser.add_argument("--quick", action="store_true", help="one seed of the report half")
    parser.add_argument("--only", nargs="+", choices=recipes(), metavar="NAME", help="only these recipes")
    parser.add_argument("--seed", type=int, nargs="+", help=f"only these seeds; default 0 to {SEEDS - 1}")
    parser.add_argument("--folder", type=Path, default=Path("outputs/detection"), help="where runs are kept")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--no-detector", action="store_true", help="outcomes and rivals only")
    parser.add_argument("--json", type=Path, help="also write everything here")
    parser.add_argument("-v", "--verbose", action="store_true", help="print each run")
    arguments = parser.parse_args()

    half = "report" if arguments.quick else arguments.half
    chosen = [
        recipe
        for recipe in recipes().values()
        if (half is None or recipe.half == half) and (not arguments.only or recipe.name in arguments.only)
    ]
    seeds = arguments.seed or ([0] if arguments.quick else list(range(SEEDS)))
    versions = {"record": recorder_version()}
    if not arguments.no_detector:
        versions["watch"] = detector_version()
    for failure in run_all(jobs(chosen, seeds, versions), arguments.folder, arguments.workers):
        print(f"FAILED {failure}")
    if arguments.verbose:
        for recipe in chosen:
            for seed in seeds:
                show(recipe, seed, arguments.folder, versions)
        print()
    cases = gather(chosen, seeds, arguments.folder, versions)
    detectors = [OURS, *NAMES] if "watch" in versions else list(NAMES)
    print(report(cases, detectors))
    if arguments.json:
        arguments.json.write_text(json.dumps(as_dict(cases, detectors), indent=1))


if __name__ == "__main__":
    main()
