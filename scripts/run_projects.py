"""Runs our callbacks in other people's projects, built on Lightning or trained by it, and says what that changes.

    python scripts/run_projects.py --make-environment ../projects-venv                 # once, some minutes
    python scripts/run_projects.py --python ../projects-venv/bin/python --json projects.json
    python scripts/run_projects.py --python ../projects-venv/bin/python --only timm,darts

The environment has the releases of ``projects/requirements.txt`` and the torch of ``constraints.txt``. A recipe in
``projects/recipes/`` builds a small model of one project on data of its own making, nothing is downloaded, and gives
our callbacks to the project in the project's own way. ``--only`` takes names of recipe files. Every model is trained
four times from one seed, each time in a process of its own:

=========  ============================================================================================================
bare       without a callback of ours
observers  with GradientMonitor, with its options, PathologyDetector and HessianSpectrum
clipping   with GradientClipping, at a norm that clips nothing
sick       with monitor and detector, and with the one sickness that the recipe names
=========  ============================================================================================================

Columns of the table:

========  =============================================================================================================
loss      mean of the first and of the last tenth of the bare run's steps
s         what the bare run took, and the one with observers
weights   whether weights and buffers with observers, and with clipping, are bit for bit the bare run's
disabled  callbacks of ours that disabled themselves, in any run
keys      logged layers that are no parameter or module of the run's
spectra   how many spectra were computed
false     findings at ``warning`` or above of the healthy run with observers; one that the recipe says is true of the
          healthy model as well is not counted, but shown with the reason
sickness  what was changed, and below it what the detector says of it, for a person to judge
========  =============================================================================================================

A row is clean if weights are the same, nothing is disabled, keys are right, there is no false finding and the loss
fell. The exit status is 1 unless all rows are. A project that is not installed is a row with the reason.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RECIPES = HERE / "projects" / "recipes"
SECONDS = 120  # one run
COLUMNS = ("model", "release", "loss", "s", "weights", "disabled", "keys", "spectra", "false")


def make_environment(folder: Path) -> None:
    """Install the projects, the pinned torch and this package."""
    root = HERE.parent
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-c", str(root / "constraints.txt")]
    subprocess.run([*pip, "-r", str(HERE / "projects" / "requirements.txt")], check=True)
    subprocess.run([*pip, "-e", f"{root}[plots]"], check=True)


def run(python: Path, files: Sequence[str], folder: Path) -> list[dict[str, Any]]:
    """Return one result a run, of all models of the recipe files."""
    environment = {
        "OMP_NUM_THREADS": "1",
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
    }
    results: list[dict[str, Any]] = []
    for file in files:
        print(f"{file} ...", file=sys.stderr, flush=True)
        path = folder / f"{file}.jsonl"
        with (folder / f"{file}.log").open("w") as log:
            command = [str(python), "-m", "projects.one_run", file, str(path), str(SECONDS)]
            subprocess.run(command, env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT, check=False)
        if path.exists():
            results += map(json.loads, path.read_text().splitlines())
        else:
            results.append({"model": file, "reason": f"it left no result; see {file}.log"})
    return results


def ends(losses: Sequence[float]) -> tuple[float, float]:
    """Return the mean of the first and of the last tenth."""
    tenth = max(1, len(losses) // 10)
    return sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth


def false_findings(observed: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the findings that a healthy run should not have."""
    return [each for each in serious(observed) if each["kind"] not in observed.get("true", {})]


def serious(observed: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the findings at ``warning`` or above."""
    return [each for each in observed.get("findings", ()) if each["severity"] != "info"]


def unexplained(runs: dict[str, dict[str, Any]]) -> list[str]:
    """Return what is wrong in a row, by column."""
    if any("reason" in each for each in runs.values()):
        return []
    healthy = [runs[variant] for variant in ("bare", "observers", "clipping")]
    wrong = [f"{each['variant']}: {each['error']}" for each in healthy if each.get("error")]
    if wrong:
        return wrong
    bare, observed, clipped = healthy
    first, last = ends(bare["losses"])
    wrong += [f"weights with {each['variant']}" for each in (observed, clipped) if each["weights"] != bare["weights"]]
    wrong += [f"disabled: {text}" for each in runs.values() for text in each.get("disabled", {}).values()]
    wrong += [f"keys: {each}" for each in observed["keys"]]
    wrong += ["no spectrum"] if not observed["spectra"] else []
    wrong += [f"false: {each['message']}" for each in false_findings(observed)]
    return wrong + ([] if last < first else ["the loss did not fall"])


def row(model: str, runs: dict[str, dict[str, Any]]) -> list[str]:
    """Return the lines of one model."""
    reason = next((each["reason"] for each in runs.values() if "reason" in each), "")
    failed = next((each["error"] for each in runs.values() if each.get("error") and each["variant"] != "sick"), "")
    if reason or failed:
        return [f"{model}: {reason or failed}"]
    bare, observed, clipped, sick = (runs[variant] for variant in ("bare", "observers", "clipping", "sick"))
    first, last = ends(bare["losses"])
    same = [("same" if each["weights"] == bare["weights"] else "DIFFER") for each in (observed, clipped)]
    disabled = sorted({name for each in runs.values() for name in each.get("disabled", {})})
    cells = (
        model,
        f"{bare['version']}, {bare['flavour']}",
        f"{first:.3g} -> {last:.3g}",
        f"{bare['seconds']:.0f}, {observed['seconds']:.0f}",
        ", ".join(dict.fromkeys(same)),
        ", ".join(disabled) or "none",
        ", ".join(observed["keys"]) or "right",
        str(observed["spectra"]),
        str(len(false_findings(observed))),
    )
    lines = [formatted(cells)]
    lines += [f"    FALSE {said(each)}" for each in false_findings(observed)]
    found = Counter(each["kind"] for each in serious(observed))
    lines += [f"    true, {found[kind]} x {kind}: {why}" for kind, why in observed.get("true", {}).items()]
    start, end = ends(sick["losses"]) if sick.get("losses") else (float("nan"), float("nan"))
    fate = f", {sick['error']}" if sick.get("error") else ""
    lines.append(f"    {bare['sickness']}: loss {start:.3g} -> {end:.3g}{fate}")
    lines += [f"      {said(each)}" for each in serious(sick)] or ["      nothing at warning or above"]
    return lines


def said(finding: dict[str, Any]) -> str:
    """Return a finding in one line."""
    until = "" if finding["resolved_at"] is None else f"-{finding['resolved_at']}"
    place = finding["layer"] or "(whole model)"
    where = f"step {finding['step']}{until}, {finding['severity']} {finding['kind']}, {place}"
    return f"{where}: {finding['message']} => {finding['remedy']}"


def formatted(cells: Sequence[str]) -> str:
    """Return the cells in columns."""
    widths = (28, 26, 20, 8, 12, 16, 8, 8, 5)
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def main() -> int:
    known = sorted(path.stem for path in RECIPES.glob("*.py") if path.stem != "__init__")
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--make-environment", type=Path, metavar="FOLDER", help="make it and stop")
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="of the projects' environment")
    parser.add_argument("--only", default=",".join(known), help="names of recipe files, with commas")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was found")
    arguments = parser.parse_args()
    if arguments.make_environment:
        make_environment(arguments.make_environment)
        return 0
    files = arguments.only.split(",")
    if unknown := set(files) - set(known):
        parser.error(f"--only {','.join(sorted(unknown))}: must be of {', '.join(known)}")
    with tempfile.TemporaryDirectory() as folder:
        results = run(arguments.python.absolute(), files, Path(folder))
    models: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for result in results:
        models[result["model"]][result.get("variant", "reason")] = result
    print(formatted(COLUMNS))
    for model, runs in models.items():
        print("\n".join(row(model, runs)))
    left = [f"{model}: {each}" for model, runs in models.items() for each in unexplained(runs)]
    print(f"\n{len(models)} models, {len(left)} unexplained cells", *left, sep="\n  ")
    if arguments.json:
        arguments.json.write_text(json.dumps({"models": models, "unexplained": left}, indent=1))
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
