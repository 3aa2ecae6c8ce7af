"""A learning rate of exactly zero that nothing is going to raise."""

from collections.abc import Iterator

from lightning_gradtools.diagnosis.finding import Change, Evidence, Finding, Kind, Remedy, Severity
from lightning_gradtools.diagnosis.rule import Need, Rule, RuleContext

_NEEDED = 4  # observations: a module may warm up in its own hooks, from zero at the first step

_REMEDY = (
    Remedy(
        sentence="Give the optimizer a learning rate.",
        change=Change.RAISE_LEARNING_RATE,
        value=1e-3,
        code="for group in optimizer.param_groups: group['lr'] = 0.001",
    ),
)


def find_learning_rate_zero(context: RuleContext) -> Iterator[Finding]:
    """The rate of all groups has been exactly zero since the start, no weight has moved, and there is no schedule."""
    history, latest = context.history, context.latest
    if history.scheduled or history.peak_learning_rate > 0 or len(history.observations) < _NEEDED:
        return
    if any(layer.update != 0 for each in history.observations for layer in each.layers):
        return
    yield Finding(
        kind=Kind.LEARNING_RATE_TOO_LOW,
        layer="",
        step=latest.step,
        severity=Severity.CRITICAL,
        evidence=(Evidence(quantity="learning rate", value=0.0, threshold=0.0, steps=history.step + 1),),
        message="the learning rate is 0, and no schedule is to raise it: no step changes a weight",
    )


RULE = Rule(
    kind=Kind.LEARNING_RATE_TOO_LOW,
    order=16,
    needs=frozenset({Need.OBSERVATIONS}),
    find=find_learning_rate_zero,
    remedies=lambda _: _REMEDY,
)
