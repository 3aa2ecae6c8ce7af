"""Rules, one pathology a file: a history of observations in, findings out."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from lightning_gradtools.diagnosis.finding import Finding, Kind, Remedy, Severity
from lightning_gradtools.diagnosis.observation import History
from lightning_gradtools.diagnosis.rules.dead_relu import find_dead_relu
from lightning_gradtools.diagnosis.rules.exploding_gradient import find_exploding_gradient
from lightning_gradtools.diagnosis.rules.no_gradient import find_no_gradient
from lightning_gradtools.diagnosis.rules.nonfinite import find_nonfinite
from lightning_gradtools.diagnosis.rules.oscillating_loss import find_oscillating_loss
from lightning_gradtools.diagnosis.rules.poor_initialization import find_poor_initialization
from lightning_gradtools.diagnosis.rules.saturated_activation import find_saturated_activation
from lightning_gradtools.diagnosis.rules.stalled_training import find_stalled_training
from lightning_gradtools.diagnosis.rules.vanishing_gradient import find_vanishing_gradient

RULES: tuple[Callable[[History], Iterator[Finding]], ...] = (
    find_poor_initialization,
    find_no_gradient,
    find_dead_relu,
    find_saturated_activation,
    find_vanishing_gradient,
    find_exploding_gradient,
    find_oscillating_loss,
    find_stalled_training,
)
_CAUSE_FIRST = Remedy("Mend the layers named in the other findings first: this may follow from them.")


def diagnose(history: History) -> list[Finding]:
    """Return what all rules find in ``history``, causes before consequences.

    While values are not finite no other number means anything: a NaN is not above zero, and so looks dead.
    """
    nonfinite = list(find_nonfinite(history))
    found = nonfinite or [finding for rule in RULES for finding in rule(history)]
    if any(each.layer and each.severity >= Severity.WARNING and not _is_stalled(each) for each in found):
        return [replace(each, remedy=(_CAUSE_FIRST, *each.remedy)) if _is_stalled(each) else each for each in found]
    return found


def _is_stalled(finding: Finding) -> bool:
    return finding.kind == Kind.STALLED_TRAINING
