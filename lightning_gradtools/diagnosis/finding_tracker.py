"""The list of findings: no pathology twice, escalated as it gets worse, withdrawn when the evidence goes."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from lightning_gradtools.diagnosis.finding import Finding, Kind

_PATIENCE = 3  # evaluations without evidence before a finding is withdrawn


class FindingTracker:
    """Keeps findings over a run.

    Attributes:
        findings: one per pathology and layer and outbreak, in order of first appearance. ``step`` is when the present
            severity was reached; a severity only rises while a finding stands.
    """

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self._absent: dict[tuple[Kind, str], int] = {}

    def update(self, candidates: Iterable[Finding], step: int) -> list[Finding]:
        """Take what the rules say at ``step``; return the findings that are new or have escalated."""
        news: list[Finding] = []
        standing = {(each.kind, each.layer): i for i, each in enumerate(self.findings) if each.resolved_at is None}
        present = set()
        for candidate in candidates:
            key = candidate.kind, candidate.layer
            if key in standing and candidate.severity < self.findings[standing[key]].severity:
                continue  # as good as gone: what is left of it may be found anew
            present.add(key)
            self._absent.pop(key, None)
            if key not in standing:
                standing[key] = len(self.findings)
                self.findings.append(candidate)
                news.append(candidate)
                continue
            known = self.findings[standing[key]]
            if candidate.severity > known.severity:
                self.findings[standing[key]] = candidate
                news.append(candidate)
            else:
                self.findings[standing[key]] = replace(candidate, step=known.step)
        for key in standing.keys() - present:
            self._absent[key] = self._absent.get(key, 0) + 1
            if self._absent[key] >= _PATIENCE:
                del self._absent[key]
                self.findings[standing[key]] = replace(self.findings[standing[key]], resolved_at=step)
        return news

    def state_dict(self) -> dict[str, Any]:
        """Return it as plain dictionaries, lists and numbers."""
        absent = [(str(kind), layer, count) for (kind, layer), count in self._absent.items()]
        return {"findings": [each.as_dict() for each in self.findings], "absent": absent}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the tracker that gave ``state`` stopped. ``findings`` stays the same list.

        What a state of another version lacks is empty.
        """
        self.findings[:] = [Finding.from_dict(each) for each in state.get("findings", ())]
        self._absent = {(Kind(kind), layer): count for kind, layer, count in state.get("absent", ())}
