"""Inputs or targets on a scale that the network does not start from."""

import math
from collections.abc import Iterator

from lightning_gradtools.diagnosis.contract_findings import standardise
from lightning_gradtools.diagnosis.contracts import first_input, loss_calls
from lightning_gradtools.diagnosis.failing import training_fails
from lightning_gradtools.diagnosis.finding import Evidence, Finding, Kind, Remedy, Severity
from lightning_gradtools.diagnosis.rule import Rule, RuleContext

LARGE = 100.0  # root mean square
SMALL = 1e-3
OFFSET = 10.0  # mean / standard deviation
_SAMPLES = 8  # of fewer the deviation says little
_NUMBERS = frozenset({"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"})


def find_unscaled_data(context: RuleContext) -> Iterator[Finding]:
    """Inputs of the first layer, and targets of regression losses: too large, too small, or all but their offset.

    A root mean square over :data:`LARGE` or under :data:`SMALL`, or a mean over :data:`OFFSET` deviations. Many
    networks train on such data: it is ``info`` while training goes on, and a warning once it fails. Inputs that are
    indices, or that a normalisation before or right after the first layer takes care of, are no finding. Nor is a
    constant input, which is another.
    """
    severity = Severity.WARNING if training_fails(context) else Severity.INFO
    yield from _inputs(context, severity)
    yield from _targets(context, severity)


def _inputs(context: RuleContext, severity: Severity) -> Iterator[Finding]:
    seen = first_input(context.history.contracts)
    if seen is None or not seen.plain or seen.measures.alike == 1:
        return
    measures = seen.measures
    unusual = _unusual(measures.scale, measures.offset if measures.samples >= _SAMPLES else 0.0)
    if unusual is None:
        return
    evidence, words = unusual
    message = (
        f"what {seen.layer} is given is not scaled: {words}; altogether the mean is {measures.mean:.3g} and the"
        f" deviation {measures.deviation:.3g}"
    )
    yield _finding(
        context, severity, seen.layer, message, evidence, standardise("x", measures.mean, measures.deviation)
    )


def _targets(context: RuleContext, severity: Severity) -> Iterator[Finding]:
    calls = [call for call in loss_calls(context.history.contracts) if call.function in _NUMBERS and not call.crossed]
    for call in calls:
        seen = call.measures
        if len(calls) == 1 and seen.samples >= _SAMPLES and seen.lowest == seen.highest != 0:
            message = f"all targets of {call.function} are {seen.lowest:.3g}: there is nothing to learn but this number"
            evidence = Evidence(quantity="standard deviation of the targets", value=0.0, threshold=0.0)
            remedy = Remedy(sentence="See how the targets are made.", code="assert target.std() > 0")
            yield _finding(context, severity, "", message, evidence, remedy)
            return
        unusual = _unusual(seen.scale, seen.offset if seen.samples >= _SAMPLES else 0.0)
        if unusual is not None and seen.spread > 0:
            evidence, words = unusual
            message = (
                f"the targets of {call.function} are not scaled: {words}; their mean is {seen.mean:.3g} and their"
                f" deviation {seen.spread:.3g}"
            )
            yield _finding(context, severity, "", message, evidence, standardise("target", seen.mean, seen.spread))
            return


def _unusual(scale: float, offset: float) -> tuple[Evidence, str] | None:
    """Return what is unusual about numbers of this root mean square and of this mean / deviation, if anything is.

    Of numbers that are not finite nothing is said here.
    """
    if not math.isfinite(scale):
        return None
    if scale > LARGE:
        return Evidence(quantity="root mean square", value=scale, threshold=LARGE), f"of the order of {scale:.3g}"
    if 0 < scale < SMALL:
        return Evidence(quantity="root mean square", value=scale, threshold=SMALL), f"of the order of {scale:.1e}"
    if offset > OFFSET:
        return Evidence(quantity="mean / deviation", value=offset, threshold=OFFSET), (
            f"their mean is {offset:.3g} times what they differ by"
        )
    return None


def _finding(
    context: RuleContext, severity: Severity, layer: str, message: str, evidence: Evidence, remedy: Remedy
) -> Finding:
    return Finding(
        kind=Kind.UNSCALED_DATA,
        layer=layer,
        step=context.history.step,
        severity=severity,
        evidence=(evidence,),
        message=message,
        remedy=(remedy,),
    )


RULE = Rule(
    kind=Kind.UNSCALED_DATA,
    order=-20,  # before non-finite values: what the first steps showed holds whatever came of it
    needs=frozenset(),
    find=find_unscaled_data,
    remedies=lambda _: (),
)
