"""Counts and tables of the runs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from real_faults.diagnosis import named
from real_faults.measure import root
from real_faults.program import Label, Program, Source
from real_faults.verdicts import PUBLISHED, TOOLS

OURS = "ours"
Run = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the detector said of one program and seed.

    Attributes:
        program: the program's name.
        detected: whether the faulty run has a finding at ``warning`` or above, resolved ones included.
        diagnosed: whether one of these names a label of the record.
        flagged: whether the repaired run has one.
        gain: score of the repaired run less that of the faulty one.
    """

    program: str
    detected: bool
    diagnosed: bool
    flagged: bool
    gain: float


COLUMNS: tuple[tuple[str, Callable[[Verdict], bool]], ...] = (
    ("detected", lambda each: each.detected),
    ("diagnosed", lambda each: each.diagnosed),
    ("flagged on repaired", lambda each: each.flagged),
)


def verdict(program: str, labels: frozenset[Label], faulty: Run, repaired: Run) -> Verdict:
    return Verdict(
        program=program,
        detected=bool(faulty["findings"]),
        diagnosed=any(named(each) & labels for each in faulty["findings"]),
        flagged=bool(repaired["findings"]),
        gain=repaired["score"] - faulty["score"],
    )


def verdicts(programs: Iterable[Program], runs: Iterable[Run]) -> list[Verdict]:
    """Return one verdict a program and seed that both twins were run with."""
    by = {(run["program"], run["seed"], run["twin"]): run for run in runs}
    seeds = sorted({seed for _, seed, _ in by})
    return [
        verdict(each.name, each.labels, by[each.name, seed, "faulty"], by[each.name, seed, "repaired"])
        for each in programs
        for seed in seeds
        if (each.name, seed, "faulty") in by and (each.name, seed, "repaired") in by
    ]


def share(values: Sequence[bool]) -> str:
    return f"{sum(values) / len(values):.3f} ({sum(values)}/{len(values)})" if values else "–"


def published(posts: Sequence[str], tool: int, column: int) -> str:
    """Return what a tool is said to have said of these programs, where that is known."""
    marks = [PUBLISHED[post][column][tool] for post in posts]
    return share([mark == "1" for mark in marks if mark != "?"])


def comparison(title: str, programs: Sequence[Program], found: Sequence[Verdict]) -> str:
    """Return the table of all tools on programs of DeepFD's benchmark, or of ours alone on others."""
    names = {each.name for each in programs}
    ours = [each for each in found if each.program in names]
    known = all(each.source is Source.DEEPFD for each in programs)
    tools = TOOLS if known else ()
    lines = [f"{title}: {len(programs)} programs", "", row("", *tools, OURS), row(*["---"] * (len(tools) + 2))]
    posts = [each.post for each in programs]
    for column, (name, said) in enumerate(COLUMNS):
        theirs = [published(posts, tool, column) if column < 2 else "not reported" for tool in range(len(tools))]
        lines.append(row(name, *theirs, share([said(each) for each in ours])))
    return "\n".join(lines)


def row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def program_row(program: Program, runs: Sequence[Run], found: Sequence[Verdict]) -> str:
    """Return one line on a program: labels, counts over seeds, scores, and the first seed's root finding."""
    faulty = [run for run in runs if run["program"] == program.name and run["twin"] == "faulty"]
    repaired = [run for run in runs if run["program"] == program.name and run["twin"] == "repaired"]
    mine = [each for each in found if each.program == program.name]
    first = root(faulty[0]["findings"])
    said = f"{first['kind']} at {first['layer'] or 'the whole model'}, step {first['seen']}" if first else "nothing"
    kinds = dict.fromkeys(each["kind"] for run in faulty for each in run["findings"])
    false = dict.fromkeys(each["kind"] for run in repaired for each in run["findings"])
    return row(
        program.name,
        program.half,
        ", ".join(sorted(map(str, program.labels))),
        *(f"{sum(said(each) for each in mine)}/{len(mine)}" for _, said in COLUMNS),
        f"{mean([run['score'] for run in faulty]):.2f} → {mean([run['score'] for run in repaired]):.2f}",
        said,
        ", ".join(kinds) or "–",
        ", ".join(false) or "–",
    )


HEADER = (
    "program",
    "half",
    "labels of the record",
    "detected",
    "diagnosed",
    "repaired flagged",
    "score",
    "root finding of the first seed",
    "kinds said",
    "kinds said of the repaired",
)


def report(programs: Sequence[Program], runs: Sequence[Run], *, verbose: bool) -> str:
    """Return all tables."""
    found = verdicts(programs, runs)
    parts = []
    for source in Source:
        of_source = [each for each in programs if each.source is source]
        for half in ("", "report", "tune"):
            chosen = [each for each in of_source if half in ("", each.half)]
            if chosen:
                title = f"{source}, {half} half" if half else f"{source}, all"
                parts.append(comparison(title, chosen, found))
    for half in ("", "report"):
        chosen = [each for each in programs if half in ("", each.half)]
        if chosen:
            parts.append(comparison(f"All sources, {half} half" if half else "All sources", chosen, found))
    useless = [each.name for each in programs if mean([v.gain for v in found if v.program == each.name]) <= 0]
    if useless:
        parts.append(f"The repair does not help: {', '.join(useless)}")
    if verbose:
        rows = [program_row(each, runs, found) for each in programs]
        parts.append("\n".join([row(*HEADER), row(*["---"] * len(HEADER)), *rows]))
    return "\n\n".join(parts)
