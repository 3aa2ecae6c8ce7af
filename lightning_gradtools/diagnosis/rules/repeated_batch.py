"""The same data again and again: one batch at every step, or one sample all through a batch."""

import math
from collections.abc import Iterator

from lightning_gradtools.diagnosis.contract_findings import MEMORISE
from lightning_gradtools.diagnosis.contracts import first_input
from lightning_gradtools.diagnosis.failing import training_fails
from lightning_gradtools.diagnosis.finding import Evidence, Finding, Kind, Remedy, Severity
from lightning_gradtools.diagnosis.rule import Rule, RuleContext

SEEN = 4  # steps on which the batch must have been the same
PLACES = 2  # in an epoch
_ROUNDING = 1e-6
_SAMPLES = 4  # alike in a batch


def find_repeated_batch(context: RuleContext) -> Iterator[Finding]:
    """The same elements, first layer's input and targets on :data:`SEEN` steps, at :data:`PLACES` places of the epoch.

    An epoch of one batch (all data at once, or ``overfit_batches=1``) has one place, and is no finding. Data of unknown
    length may be one batch for ever on purpose, so that is ``info``. So are samples that are all alike, such as the
    nodes of a graph without features, until training fails.
    """
    yield from _same_batch(context)
    yield from _same_samples(context)


def _same_batch(context: RuleContext) -> Iterator[Finding]:
    seen = [each for each in context.history.contracts if each.fingerprints]
    places = {each.batch_index for each in seen}
    if len(seen) < SEEN or len(places) < PLACES or len(seen) < len(context.history.contracts):
        return
    first = seen[0].fingerprints
    if any(not _same(each.fingerprints, first) for each in seen):
        return
    steps = ", ".join(str(each.step) for each in seen)
    yield Finding(
        kind=Kind.REPEATED_BATCH,
        layer="",
        step=context.history.step,
        severity=Severity.WARNING if all(each.sized for each in seen) else Severity.INFO,
        evidence=(Evidence(quantity="steps with one and the same batch", value=len(seen), threshold=SEEN),),
        message=f"the batches of steps {steps} are one and the same, though an epoch has more than one",
        remedy=(
            Remedy(
                sentence="See that the data set uses the index that it is given, and that the loader is made once.",
                code="assert not torch.equal(dataset[0][0], dataset[1][0])",
            ),
            MEMORISE,
        ),
    )


def _same(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return len(one) == len(other) and all(
        math.isclose(a, b, rel_tol=_ROUNDING) for a, b in zip(one, other, strict=True)
    )


def _same_samples(context: RuleContext) -> Iterator[Finding]:
    seen = first_input(context.history.contracts)
    if seen is None or seen.measures.alike < 1 or seen.measures.samples < _SAMPLES:
        return
    samples = seen.measures.samples
    yield Finding(
        kind=Kind.REPEATED_BATCH,
        layer=seen.layer,
        step=context.history.step,
        severity=Severity.WARNING if training_fails(context) else Severity.INFO,
        evidence=(Evidence(quantity="share of batches whose samples are all alike", value=1.0, threshold=1.0),),
        message=(
            f"all {samples:.0f} samples of a batch are alike when they come to {seen.layer}: nothing can tell them"
            " apart"
        ),
        remedy=(
            Remedy(
                sentence="See that the samples differ before they are put together.",
                code="assert (x != x[:1]).any()",
            ),
        ),
    )


RULE = Rule(
    kind=Kind.REPEATED_BATCH,
    order=-15,  # before non-finite values: what the first steps showed holds whatever came of it
    needs=frozenset(),
    find=find_repeated_batch,
    remedies=lambda _: (),
)
