"""Recall, false alarms, right layer and delay of each detector, from labelled runs.

==============  =====================================================================================================
flagged         sick runs in which it said anything
named           sick runs in which it said a kind that is present. NaN and explosion count as one kind, as several
                rivals have one rule for both. A run that is stalled or oscillates has a cause: any kind present will do
false alarms    healthy runs in which it said anything; and among the hard ones
right layer     of what it said of a layer, with a kind that is present and a place that was measured: that layer, or
                one next to it in the order of execution. An activation stands for the layer before it
other kinds     of the kinds that it said in sick runs: neither present nor borderline
steps           from a kind's onset to the first time it was said, the least over kinds; 0 if it came before
==============  =====================================================================================================
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from detection.intervals import of_median, wilson
from detection.labels import Label, Outcome
from detection.recipe import Recipe

OURS = "PathologyDetector"
ALIKE = {"nonfinite": "exploding_gradient"}
LARGEST = 4  # layers in a container that still names a place


@dataclass(frozen=True)
class Case:
    """A run with its outcome and what each detector said of it."""

    recipe: Recipe
    seed: int
    outcome: Outcome
    layers: Sequence[str]
    parametric: Sequence[str]
    said: Mapping[str, Sequence[Mapping[str, Any]]]
    roots: Sequence[str] | None = None
    """Kinds of our findings that stand in the end and follow from no other; None where it was not asked."""


@dataclass(frozen=True)
class Share:
    """A share and its interval."""

    hits: int
    total: int

    def __str__(self) -> str:
        if not self.total:
            return "-"
        low, high = wilson(self.hits, self.total)
        return f"{self.hits / self.total:.3f} [{low:.2f} {high:.2f}]"

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers."""
        low, high = wilson(self.hits, self.total)
        return {"hits": self.hits, "total": self.total, "low": low, "high": high}


def matches(kind: str, label: Label) -> bool:
    """Tell whether what was said is what is."""
    return ALIKE.get(kind, kind) == ALIKE.get(label.kind, label.kind)


def named(case: Case, detector: str) -> bool:
    """Tell whether a kind that is present was said."""
    return any(matches(each["kind"], label) for each in case.said[detector] for label in case.outcome.present.values())


def delay(case: Case, detector: str) -> int | None:
    """Return the steps from the onset to the first right word, None if there is none."""
    delays = [
        max(0, each["step"] - label.onset)
        for each in case.said[detector]
        for label in case.outcome.present.values()
        if matches(each["kind"], label)
    ]
    return min(delays, default=None)


def places(case: Case, path: str) -> set[int]:
    """Return the positions, in order of execution, of the layers with weights that a path stands for."""
    order = {name: place for place, name in enumerate(case.parametric)}
    inside = {place for name, place in order.items() if name == path or name.startswith(path + ".")}
    if inside or path not in case.layers:
        return inside
    before = [name for name in case.layers[: case.layers.index(path)] if name in order]
    return {order[before[-1]]} if before else {0}


def right_layers(case: Case, detector: str) -> list[bool]:
    """Return for each located finding with a kind that is present whether it was there."""
    verdicts = []
    for each in case.said[detector]:
        truth = [
            place for label in case.outcome.present.values() if label.kind == each["kind"] for place in label.layers
        ]
        if not each["layer"] or not truth:
            continue
        said = places(case, each["layer"])
        real = set().union(*(places(case, place) for place in truth))
        near = any(abs(a - b) <= 1 for a in said for b in real)
        verdicts.append(near and len(said) <= LARGEST)
    return verdicts


def score(cases: Sequence[Case], detector: str) -> dict[str, Any]:
    """Return every figure of one detector."""
    sick = [case for case in cases if case.outcome.verdict == "sick"]
    healthy = [case for case in cases if case.outcome.verdict == "healthy"]
    hard = [case for case in healthy if case.recipe.hard]
    layers = [right for case in sick for right in right_layers(case, detector)]
    delays = [steps for case in sick if (steps := delay(case, detector)) is not None]
    kinds = [
        any(matches(kind, label) for label in case.outcome.labels)
        for case in sick
        for kind in {each["kind"] for each in case.said[detector]}
    ]
    return {
        "flagged": Share(sum(bool(case.said[detector]) for case in sick), len(sick)),
        "named": Share(sum(named(case, detector) for case in sick), len(sick)),
        "false alarms": Share(sum(bool(case.said[detector]) for case in healthy), len(healthy)),
        "in hard ones": Share(sum(bool(case.said[detector]) for case in hard), len(hard)),
        "right layer": Share(sum(layers), len(layers)),
        "other kinds": Share(len(kinds) - sum(kinds), len(kinds)),
        "steps": delays,
    }


def steps(delays: Sequence[int]) -> str:
    """Return the median and its interval."""
    if not delays:
        return "-"
    low, high = of_median(delays)
    return f"{statistics.median(delays):.0f} [{low:.0f} {high:.0f}]"


def per_pathology(cases: Sequence[Case], detector: str) -> dict[str, dict[str, Any]]:
    """Return the figures of the runs that each pathology is present in."""
    kinds = dict.fromkeys(kind for case in cases for kind in sorted(case.outcome.present))
    found = {}
    for kind in sorted(kinds):
        these = [case for case in cases if kind in case.outcome.present]
        label = [case.outcome.present[kind] for case in these]
        said = [
            [each for each in case.said[detector] if matches(each["kind"], one)]
            for case, one in zip(these, label, strict=True)
        ]
        right = [
            verdict
            for case, one in zip(these, label, strict=True)
            for verdict in right_layers(only(case, detector, one), detector)
        ]
        found[kind] = {
            "named": Share(sum(named(case, detector) for case in these), len(these)),
            "this kind": Share(sum(map(bool, said)), len(these)),
            "right layer": Share(sum(right), len(right)),
            "steps": [
                max(0, min(each["step"] for each in words) - one.onset)
                for words, one in zip(said, label, strict=True)
                if words
            ],
        }
    return found


def only(case: Case, detector: str, label: Label) -> Case:
    """Return the case with nothing said but this kind."""
    words = [each for each in case.said[detector] if each["kind"] == label.kind]
    return replace(case, said={detector: words})


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return rows of figures under the names of the columns."""
    columns = list(next(iter(rows.values())))
    wide = max(map(len, rows)) + 2
    lines = [" " * wide + "".join(f"{column:<20}" for column in columns)]
    for name, row in rows.items():
        cells = [str(row[column]) if isinstance(row[column], Share) else steps(row[column]) for column in columns]
        lines.append(f"{name:<{wide}}" + "".join(f"{cell:<20}" for cell in cells))
    return "\n".join(line.rstrip() for line in lines)


def report(cases: Sequence[Case], detectors: Sequence[str]) -> str:
    """Return all tables."""
    verdicts = [case.outcome.verdict for case in cases]
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in ("sick", "healthy", "ambiguous"))
    parts = [
        f"{len(cases)} runs of {len({case.recipe.name for case in cases})} recipes: {counts}. [95 % intervals]",
        table({detector: score(cases, detector) for detector in detectors}),
    ]
    asked = [case for case in cases if case.outcome.verdict == "sick" and case.roots is not None]
    if asked:
        few = Share(sum(len(case.roots or ()) <= 1 for case in asked), len(asked))
        parts.append(f"sick runs for which {OURS} tells at most one cause: {few}")
    for detector in detectors:
        rows = per_pathology(cases, detector)
        if rows:
            parts.append(f"{detector}, by what is present (a run may have several)\n{table(rows)}")
    return "\n\n".join(parts)


def as_dict(cases: Sequence[Case], detectors: Sequence[str]) -> dict[str, Any]:
    """Return every figure and every run, as JSON can hold them."""

    def plain(value: Any) -> Any:
        if isinstance(value, Share):
            return value.as_dict()
        return {key: plain(each) for key, each in value.items()} if isinstance(value, dict) else value

    return {
        "overall": {detector: plain(score(cases, detector)) for detector in detectors},
        "per pathology": {detector: plain(per_pathology(cases, detector)) for detector in detectors},
        "runs": [
            {
                "recipe": case.recipe.name,
                "seed": case.seed,
                "half": case.recipe.half,
                "verdict": case.outcome.verdict,
                "progress": case.outcome.progress if abs(case.outcome.progress) < 1e30 else None,
                "labels": [vars(label) for label in case.outcome.labels],
                "said": case.said,
            }
            for case in cases
        ],
    }
