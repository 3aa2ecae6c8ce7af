"""The list of findings: no pathology twice, escalated as it gets worse, withdrawn when the evidence goes."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from lightning_gradtools.diagnosis.causes import linked
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
        """Take what the rules say at ``step``; return those that are new, escalated, or follow from no other any more.

        While a value is not finite nothing is withdrawn: no rule can see then whether its evidence has gone.
        """
        news: dict[tuple[Kind, str], None] = {}
        standing = {(each.kind, each.layer): i for i, each in enumerate(self.findings) if each.resolved_at is None}
        followed = {key for key, i in standing.items() if self.findings[i].cause is not None}
        present = set()
        blind = False
        for candidate in candidates:
            blind = blind or candidate.kind == Kind.NONFINITE
            key = candidate.kind, candidate.layer
            if key in standing and candidate.severity < self.findings[standing[key]].severity:
                continue  # as good as gone: what is left of it may be found anew
            present.add(key)
            self._absent.pop(key, None)
            if key not in standing:
                standing[key] = len(self.findings)
                self.findings.append(candidate)
                news[key] = None
                continue
            known = self.findings[standing[key]]
            if candidate.severity > known.severity:
                self.findings[standing[key]] = candidate
                news[key] = None
            else:
                self.findings[standing[key]] = replace(candidate, step=known.step)
        for key in standing.keys() - present if not blind else ():
            self._absent[key] = self._absent.get(key, 0) + 1
            if self._absent[key] >= _PATIENCE:
                del self._absent[key]
                self.findings[standing[key]] = replace(self.findings[standing[key]], resolved_at=step)
        self._link()
        left = {key: self.findings[standing[key]] for key in followed}
        news |= dict.fromkeys(key for key, each in left.items() if each.cause is None and each.resolved_at is None)
        return [self.findings[standing[key]] for key in news]

    def _link(self) -> None:
        """Say of all that stands what it follows from."""
        places = [i for i, each in enumerate(self.findings) if each.resolved_at is None]
        for i, finding in zip(places, linked([self.findings[i] for i in places]), strict=True):
            self.findings[i] = finding

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
