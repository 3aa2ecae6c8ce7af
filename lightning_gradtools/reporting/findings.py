"""Findings for people: one line, a table for the console, a card for TensorBoard."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from lightning_gradtools.diagnosis import Finding, Remedy, Severity
from lightning_gradtools.diagnosis.causes import from_causes

_SHOWN = 3  # layers of a kind of consequence that are named


def place(finding: Finding) -> str:
    """Return the layer, or what stands for the whole model."""
    return finding.layer or "(whole model)"


def one_line(finding: Finding) -> str:
    """Return what is wrong and what to try first."""
    remedy = f". {finding.remedy[0].sentence}" if finding.remedy else ""
    return f"step {finding.step}, {finding.severity}: {finding.message}{remedy}"


def roots(findings: Sequence[Finding]) -> list[Finding]:
    """Return those that stand and follow from no other, the worst first and of these causes before consequences."""
    standing = [each for each in findings if each.resolved_at is None and each.cause is None]
    return sorted(from_causes(standing), key=lambda each: -each.severity.rank)


def console_table(findings: Sequence[Finding]) -> str:
    """Return a table of causes, the worst first: below each what to try, and in a line for each kind what follows.

    Beside what makes the run sick lesser findings have their line alone.

    What was resolved comes last. "no findings" if there are none: a head without lines would leave people wondering.
    """
    if not findings:
        return "no findings"
    told = roots(findings) + _ordered(each for each in findings if each.resolved_at is not None)
    rows = [
        (str(each.severity), str(each.kind), place(each), str(each.step), _state(each), each.message) for each in told
    ]
    head = ("severity", "kind", "layer", "step", "state", "what")
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(5)]
    lines = ["  ".join([*(cell.ljust(width) for cell, width in zip(head, widths, strict=False)), head[5]])]
    advised = set()
    sick = any(each.severity >= Severity.WARNING for each in told)
    for row, finding in zip(rows, told, strict=True):
        lines.append("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[5]]))
        is_advised = finding.kind not in advised and (finding.severity >= Severity.WARNING or not sick)
        below = [f"-> {advice(remedy)}" for remedy in finding.remedy[:2] if is_advised]
        lines += [f"{'':{widths[0]}}  {line}" for line in [*below, *_consequences(finding, findings)]]
        advised.add(finding.kind)
    return "\n".join(lines)


def advice(remedy: Remedy) -> str:
    """Return the sentence of a remedy, and how to do it where that is known."""
    how = " ".join(remedy.overrides) or remedy.code
    return f"{remedy.sentence}{f'  [{how}]' if how else ''}"


def _consequences(root: Finding, findings: Sequence[Finding]) -> list[str]:
    """Return a line for each kind of finding that follows from ``root``, which may be resolved and have none."""
    if root.resolved_at is not None:
        return []
    kinds: dict[str, list[Finding]] = {}
    for each in findings:
        if each.resolved_at is None and each.cause == (root.kind, root.layer):
            kinds.setdefault(str(each.kind), []).append(each)
    lines = []
    for kind, members in kinds.items():
        more = f" and {len(members) - _SHOWN} more" if len(members) > _SHOWN else ""
        lines.append(f"with it: {kind} in {', '.join(map(place, members[:_SHOWN]))}{more}")
    return lines


def card(findings: Sequence[Finding]) -> str:
    """Return all findings as Markdown, causes with what follows from them."""
    parts = []
    for finding in roots(findings) + _ordered(each for each in findings if each.resolved_at is not None):
        parts.append(f"### {finding.severity}: {finding.kind} in {place(finding)}\n\n{finding.message}\n")
        parts.append(f"Step {finding.step}, {_state(finding)}.\n")
        parts.append("| evidence | value | threshold | steps |\n|---|---|---|---|")
        for e in finding.evidence:  # what crossed no threshold is there to understand the rest
            crossed = f"{e.threshold:.4g} | {e.steps}" if e.steps else " | "
            parts.append(f"| {e.quantity} | {e.value:.4g} | {crossed} |")
        parts.append("")
        for number, remedy in enumerate(finding.remedy, 1):
            how = " ".join(remedy.overrides) or remedy.code
            parts.append(f"{number}. {remedy.sentence}{f' `{how}`' if how else ''}")
        parts += ["", *(f"- {line}" for line in _consequences(finding, findings)), ""]
    return "\n".join(parts)


def verdict_line(findings: Sequence[Finding], samples: int) -> str:
    """Return the verdict on a run in one line, from its findings and the number of sampled steps."""
    standing = [each for each in findings if each.resolved_at is None and each.severity >= Severity.WARNING]
    if not samples:
        return "no verdict: no step was sampled yet"
    if not findings:
        return f"healthy: no findings in {samples} sampled steps"
    if not standing:
        others = f"{len(findings)} lesser or resolved"
        return f"healthy: nothing at warning or above stands after {samples} sampled steps ({others})"
    worst, *more = roots(standing)
    followers = sum(each.cause == (worst.kind, worst.layer) for each in standing)
    advised = f"; try: {worst.remedy[0].sentence}" if worst.remedy else ""
    notes = [f"{followers} more follow from it"] if followers else []
    notes += [f"and {len(more)} other cause{'s' if len(more) > 1 else ''}"] if more else []
    others = f" ({', '.join(notes)})" if notes else ""
    return f"sick: {worst.kind} in {place(worst)} since step {worst.step}{others}: {worst.message}{advised}"


def html_table(findings: Sequence[Finding], title: str) -> str:
    """Return the findings as a table for a notebook, under a title. Names come from user code, and are escaped."""
    head = ("severity", "kind", "layer", "step", "state", "what", "try")
    rows = [
        (
            str(each.severity),
            str(each.kind),
            place(each),
            str(each.step),
            _state(each),
            each.message,
            each.remedy[0].sentence if each.remedy else "",
        )
        for each in _ordered(findings)
    ]
    cells = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    names = "".join(f"<th>{name}</th>" for name in head)
    table = f"<table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>" if rows else ""
    return f"<p><b>{escape(title)}</b></p>{table}"


class FindingsFile:
    """Findings in a file, a line of JSON each; a run that goes on from a checkpoint drops what came after that.

    Args:
        path: of the file, to which is appended.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, findings: Sequence[Finding]) -> None:
        """Append ``findings``."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.writelines(json.dumps(finding.as_dict()) + "\n" for finding in findings)

    def mark(self) -> dict[str, Any]:
        """Return how far the file has come, for a checkpoint."""
        return {"path": str(self._path.resolve()), "bytes": self._size()}

    def go_on_from(self, mark: Mapping[str, Any] | None) -> None:
        """Drop what was written to this very file after ``mark`` was made: the steps that it tells of are made anew."""
        if mark is not None and mark["path"] == str(self._path.resolve()) and self._size() > mark["bytes"]:
            os.truncate(self._path, mark["bytes"])

    def _size(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0


def _ordered(findings: Iterable[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda each: (each.resolved_at is not None, -each.severity.rank, each.step))


def _state(finding: Finding) -> str:
    return "stands" if finding.resolved_at is None else f"resolved at {finding.resolved_at}"
