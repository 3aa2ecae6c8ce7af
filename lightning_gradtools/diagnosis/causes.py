"""Which finding follows from which: one cause, and under it what it brought about."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from lightning_gradtools.diagnosis.finding import Cause, Finding, Kind, Severity

# From causes to consequences. What the data, the loss or the loop is told wrong has everything else follow; a weight
# that starts wrong or a step that is too long shows in layers, these in units, and all of it in the loss.
_INDEPENDENT = (
    Kind.REPLICAS_OUT_OF_STEP,
    Kind.GRADIENTS_NOT_CLEARED,
    Kind.OUTPUT_MISMATCH,
    Kind.LOSS_MISMATCH,
    Kind.UNSCALED_DATA,
    Kind.REPEATED_BATCH,
    Kind.EVALUATION_MODE,
    Kind.NOT_OPTIMIZED,
    Kind.LOST_UPDATES,
    Kind.SCHEDULE_INTERVAL,
)
_DEPENDENT = (
    Kind.POOR_INITIALIZATION,
    Kind.LEARNING_RATE_TOO_HIGH,
    Kind.ATTENTION_COLLAPSE,
    Kind.EXPERT_IMBALANCE,
    Kind.VANISHING_GRADIENT,
    Kind.EXPLODING_GRADIENT,
    Kind.DEAD_RELU,
    Kind.SATURATED_ACTIVATION,
    Kind.NO_GRADIENT,
    Kind.LEARNING_RATE_TOO_LOW,
    Kind.LOGIT_DRIFT,
    Kind.LOSS_SPIKE,
    Kind.OSCILLATING_LOSS,
    Kind.NONFINITE,
    Kind.STALLED_TRAINING,
)
_PLACE = {kind: place for place, kind in enumerate((*_INDEPENDENT, *_DEPENDENT))}


def from_causes(findings: Iterable[Finding]) -> list[Finding]:
    """Return ``findings`` in order, causes before consequences, the worst of a kind first."""
    return sorted(findings, key=lambda each: (_PLACE[each.kind], -each.severity.rank, each.step))


def linked(findings: Sequence[Finding]) -> list[Finding]:
    """Return ``findings``, which stand at the same time, each with the one that it follows from, if any.

    That is the first cause at ``warning`` or above: of a kind that comes before its own, or another of its own kind, of
    which the worst stands for all. What is wrong with data, loss or loop follows from nothing but another of its kind,
    so there may be several causes.
    """
    causes = [each for each in from_causes(findings) if each.severity >= Severity.WARNING]
    found = []
    for finding in findings:
        same = finding.kind in _INDEPENDENT
        before = (
            each
            for each in causes
            if (each.kind == finding.kind if same else _PLACE[each.kind] <= _PLACE[finding.kind])
        )
        first = next(before, None)
        is_root = first is None or (first.kind, first.layer) == (finding.kind, finding.layer)
        found.append(replace(finding, cause=None if is_root or first is None else Cause(first.kind, first.layer)))
    return found
