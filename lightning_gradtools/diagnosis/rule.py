"""What a rule is: what it needs to know, what it finds, and what to try then."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum

from lightning_gradtools.diagnosis.finding import Finding, Kind, Remedy
from lightning_gradtools.diagnosis.observation import History, NonfiniteEvent, Observation
from lightning_gradtools.diagnosis.progress import Progress, progress


@dataclass(frozen=True)
class RuleContext:
    """What every rule is given.

    Attributes:
        history: all that is known of the run.
        progress: how training is getting on; None before ten losses or where there is no single loss.
    """

    history: History
    progress: Progress | None

    @classmethod
    def of(cls, history: History) -> "RuleContext":
        """Return the context of a ``history``."""
        return cls(history=history, progress=progress(history))

    @property
    def latest(self) -> Observation:
        """The latest observation, for rules that need :attr:`Need.OBSERVATIONS`."""
        return self.history.observations[-1]

    @property
    def nonfinite(self) -> list[NonfiniteEvent]:
        """The non-finite values from which training has not recovered, the first one first."""
        return self.history.nonfinite[self.history.recovered_from :]


class Need(Enum):
    """What must be known of a run before a rule is asked."""

    OBSERVATIONS = "at least one observation"
    FIRST_STEP = "an observation of step 0"
    ACTIVATIONS = "an activation function in the latest observation"
    PROGRESS = "a single loss, of ten steps at least"
    NONFINITE = "a NaN or an infinity from which training has not recovered"

    def is_met(self, context: RuleContext) -> bool:
        """Say whether it is known in ``context``."""
        history = context.history
        if self is Need.OBSERVATIONS:
            return bool(history.observations)
        if self is Need.FIRST_STEP:
            return bool(history.first_observations) and history.first_observations[0].step == 0
        if self is Need.ACTIVATIONS:
            return bool(history.observations and context.latest.activations)
        if self is Need.PROGRESS:
            return context.progress is not None
        return bool(context.nonfinite)


@dataclass(frozen=True)
class Rule:
    """One pathology. A file of ``rules/`` holds one as ``RULE``, and that is all there is to adding it.

    Attributes:
        kind: of its findings.
        order: place among the rules, causes before consequences.
        needs: what must be known before it is asked.
        find: what it finds in a context in which all its ``needs`` are met.
        remedies: what to try for a finding that brings no remedy of its own, the best first.
        is_exclusive: whether no later rule is asked while it finds something.
    """

    kind: Kind
    order: int
    needs: frozenset[Need]
    find: Callable[[RuleContext], Iterator[Finding]]
    remedies: Callable[[RuleContext], tuple[Remedy, ...]]
    is_exclusive: bool = False

    def findings(self, context: RuleContext) -> list[Finding]:
        """Return what it finds in ``context``, with remedies; nothing while a need is not met."""
        if not all(need.is_met(context) for need in self.needs):
            return []
        found = list(self.find(context))
        remedies = self.remedies(context) if found else ()
        return [each if each.remedy else replace(each, remedy=remedies) for each in found]
