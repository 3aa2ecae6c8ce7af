"""Findings for people: one line, a table for the console, a card for TensorBoard."""

import json
from collections.abc import Sequence
from pathlib import Path

from lightning_gradtools.diagnosis import Finding


def place(finding: Finding) -> str:
    """Return the layer, or what stands for the whole model."""
    return finding.layer or "(whole model)"


def one_line(finding: Finding) -> str:
    """Return what is wrong and what to try first."""
    remedy = f". {finding.remedy[0].sentence}" if finding.remedy else ""
    return f"step {finding.step}, {finding.severity}: {finding.message}{remedy}"


def console_table(findings: Sequence[Finding]) -> str:
    """Return a table, what stands and is worst first; below the first of each kind what to try."""
    ordered = _ordered(findings)
    rows = [
        (str(each.severity), str(each.kind), place(each), str(each.step), _state(each), each.message)
        for each in ordered
    ]
    head = ("severity", "kind", "layer", "step", "state", "what")
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(5)]
    lines = ["  ".join([*(cell.ljust(width) for cell, width in zip(head, widths, strict=False)), head[5]])]
    advised = set()
    for row, finding in zip(rows, ordered, strict=True):
        lines.append("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[5]]))
        for remedy in finding.remedy[:2] if finding.kind not in advised else ():
            how = " ".join(remedy.overrides) or remedy.code
            lines.append(f"{'':{widths[0]}}  -> {remedy.sentence}{f'  [{how}]' if how else ''}")
        advised.add(finding.kind)
    return "\n".join(lines)


def card(findings: Sequence[Finding]) -> str:
    """Return all findings as Markdown."""
    parts = []
    for finding in _ordered(findings):
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
        parts.append("")
    return "\n".join(parts)


def append_jsonl(path: Path, findings: Sequence[Finding]) -> None:
    """Append one line of JSON for each of ``findings``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(finding.as_dict()) + "\n" for finding in findings)


def _ordered(findings: Sequence[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda each: (each.resolved_at is not None, -each.severity.rank, each.step))


def _state(finding: Finding) -> str:
    return "stands" if finding.resolved_at is None else f"resolved at {finding.resolved_at}"
