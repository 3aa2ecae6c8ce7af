"""A NaN or an infinity: where the first one came from."""

from collections.abc import Iterator

from lightning_gradtools.diagnosis.finding import Change, Evidence, Finding, Kind, Remedy, Severity
from lightning_gradtools.diagnosis.remedies import raise_eps
from lightning_gradtools.diagnosis.rule import Need, Rule, RuleContext

_GROWN = 10.0  # times the baseline loss: what overflowed then had been growing

_REMEDIES = {
    "input data": (
        Remedy(
            sentence="Clean the data: drop or fill the samples named, or check them when the data set is made.",
            code="assert torch.isfinite(x).all()",
        ),
        Remedy(
            sentence="Skip steps whose gradients are not finite.",
            change=Change.SKIP_NONFINITE,
            code="GradientClipping(max_norm=1.0, on_nonfinite='skip')",
        ),
    ),
    "optimizer update": (
        Remedy(
            sentence="Lower the learning rate, or warm it up.", change=Change.WARM_UP, code="WarmupCosineSchedule()"
        ),
        raise_eps(),
    ),
}
_OTHERWISE = (
    Remedy(
        sentence="Look at the operation for log, sqrt, division or exp of what may be zero or large; clamp its input.",
        code="x.clamp(min=1e-6).log()",
    ),
    Remedy(
        sentence="Lower the learning rate or clip the gradient, if values had been growing before.",
        change=Change.CLIP_NORM,
        code="GradientClipping(max_norm=1.0)",
    ),
)


def find_nonfinite(context: RuleContext) -> Iterator[Finding]:
    """A non-finite value is critical until training has recovered from it.

    It is the first one's finding. What comes up elsewhere before training has recovered mostly follows from it, and is
    counted only.
    """
    history = context.history
    first, *later = context.nonfinite
    where = first.layer or ("the input data" if first.direction == "input data" else "no single module")
    lasted = max(1, history.last_nonfinite - first.step + 1)
    evidence = [
        Evidence(quantity="step of the first non-finite value", value=first.step, threshold=-1, steps=lasted),
        Evidence(quantity="batch index", value=first.batch_index, threshold=-1),
        Evidence(quantity="rank", value=first.rank, threshold=-1),
    ]
    if later:
        evidence.append(
            Evidence(quantity="stretches of non-finite values that followed", value=len(later), threshold=0)
        )
    yield Finding(
        kind=Kind.NONFINITE,
        layer=first.layer,
        step=first.step,
        severity=Severity.CRITICAL,
        evidence=tuple(evidence),
        message=(
            f"the first NaN or infinity came up in the {first.direction} of batch {first.batch_index} at step"
            f" {first.step} on rank {first.rank}: {where}" + (f" ({first.detail})" if first.detail else "")
        ),
    )


def _remedies(context: RuleContext) -> tuple[Remedy, ...]:
    latest = context.history.observations[-3:]
    grown = any(each.skill is not None and 1 - each.skill > _GROWN for each in latest)
    return _REMEDIES.get(context.nonfinite[0].direction, _OTHERWISE[::-1] if grown else _OTHERWISE)


RULE = Rule(
    kind=Kind.NONFINITE,
    order=0,
    needs=frozenset({Need.NONFINITE}),
    find=find_nonfinite,
    remedies=_remedies,
    is_exclusive=True,
)
