r"""Logits that wander off together: the loss does not see it, the precision of numbers does.

Adding one number to all logits changes no probability, so that nothing holds :math:`\log Z` in place. In bfloat16,
numbers beyond 64 lie half a unit apart: classes then differ by what rounding makes of them.
"""

import statistics
from collections.abc import Iterator, Sequence

from lightning_gradtools.diagnosis.finding import Evidence, Finding, Kind, Remedy, Severity
from lightning_gradtools.diagnosis.observation import Observation
from lightning_gradtools.diagnosis.remedies import lower_learning_rate
from lightning_gradtools.diagnosis.rule import Need, Rule, RuleContext

FAR = 64.0  # |log Z|
GROWTH = 5.0  # times that of the first sample, which is about ln of the number of classes
MARGIN = 3.0  # times the largest logit - the mean logit of a row; logits of mean 0 have 1, two classes at most 2
BACK = 0.95  # of the mean of the observations before, under which it is on its way back
_NEEDED = 4  # observations in a row

_REMEDIES = (
    Remedy(
        sentence="Add a z-loss, which holds log Z near zero; give it more weight where it still grows.",
        code="loss = loss + 1e-4 * logits.logsumexp(-1).square().mean()",
    ),
    Remedy(
        sentence="Give the output layer weight decay, in the parameter group that holds it.",
        code="optimizer.param_groups[-1]['weight_decay'] = 0.1",
    ),
)


def find_logit_drift(context: RuleContext) -> Iterator[Finding]:
    r"""A mean :math:`|\log Z|` that has grown far, does not come back, and is not what a sure choice looks like.

    A network that is sure of its classes has large logits too: then the largest is as far from the mean of its row as
    from zero. A drift is what moves all of them.

    Sources: Wortsman et al. 2023, arXiv:2309.14322, section 3.1.2; Chowdhery et al. 2022, arXiv:2204.02311, section 5.
    """
    history, latest = context.history, context.latest
    first = next((each.log_partition for each in history.first_observations if each.log_partition is not None), None)
    last = history.observations[-_NEEDED:]
    if first is None or len(last) < _NEEDED or not all(_is_far(each, first) for each in last):
        return
    if _comes_back(last):
        return
    assert latest.log_partition is not None
    assert latest.logit_margin is not None
    steps = latest.step - last[0].step + 1
    yield Finding(
        kind=Kind.LOGIT_DRIFT,
        layer="",
        step=latest.step,
        severity=Severity.WARNING,
        evidence=(
            Evidence(quantity="mean |log Z| of the logits", value=latest.log_partition, threshold=FAR, steps=steps),
            Evidence(
                quantity="mean |log Z| / that of the first sample",
                value=latest.log_partition / first,
                threshold=GROWTH,
                steps=steps,
            ),
            Evidence(
                quantity="mean |log Z| / mean of the largest logit above its row's mean",
                value=latest.log_partition / max(latest.logit_margin, 1e-12),
                threshold=MARGIN,
                steps=steps,
            ),
        ),
        message=(
            f"the logits drift away together: their mean |log Z| has grown from {first:.3g} to"
            f" {latest.log_partition:.3g}, while the largest lies {latest.logit_margin:.3g} above the mean of its row"
        ),
    )


def _is_far(observation: Observation, first: float) -> bool:
    far, margin = observation.log_partition, observation.logit_margin
    return far is not None and margin is not None and far >= max(FAR, GROWTH * first, MARGIN * margin)


def _comes_back(observations: Sequence[Observation]) -> bool:
    values = [each.log_partition or 0.0 for each in observations]
    half = len(values) // 2
    return statistics.fmean(values[half:]) < BACK * statistics.fmean(values[:half])


def _remedies(context: RuleContext) -> tuple[Remedy, ...]:
    return (*_REMEDIES, lower_learning_rate(context))


RULE = Rule(
    kind=Kind.LOGIT_DRIFT,
    order=64,
    needs=frozenset({Need.OBSERVATIONS}),
    find=find_logit_drift,
    remedies=_remedies,
)
