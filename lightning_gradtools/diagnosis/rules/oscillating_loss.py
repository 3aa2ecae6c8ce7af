r"""The loss jumps to and fro from step to step: the step is too long for the curvature.

Along a direction of curvature :math:`\lambda` descent multiplies the distance from the minimum by
:math:`1 - \eta \lambda` a step; over :math:`\eta\lambda = 1` it changes sides, over 2 it grows. Noise of the batches
has no memory from step to step, so the sign of an oscillation is a negative autocorrelation at lag 1.
"""

import math
import statistics
from collections.abc import Iterator
from itertools import pairwise

from lightning_gradtools.diagnosis.finding import Change, Evidence, Finding, Kind, Remedy, Severity
from lightning_gradtools.diagnosis.remedies import lower_learning_rate
from lightning_gradtools.diagnosis.rule import Need, Rule, RuleContext

_WINDOW = 50
AUTOCORRELATION = -0.5  # 3.5 standard errors (1 / sqrt(50)) of that of noise
SWING = 0.1  # standard deviation / mean
MOVE = 0.2  # of the baseline loss, from step to step
WORSE = 1.2  # times the baseline loss


def lag_one(values: list[float]) -> float:
    """Return the autocorrelation at lag 1 of ``values`` without their linear trend; 0 if they are constant."""
    n = len(values)
    middle, mean = (n - 1) / 2, statistics.fmean(values)
    slope = sum((i - middle) * v for i, v in enumerate(values)) / sum((i - middle) ** 2 for i in range(n))
    rest = [v - mean - slope * (i - middle) for i, v in enumerate(values)]
    power = sum(each**2 for each in rest)
    return sum(a * b for a, b in pairwise(rest)) / power if power > 0 else 0.0


def find_oscillating_loss(context: RuleContext) -> Iterator[Finding]:
    """Losses that alternate widely, or jump about above the baseline; over 50 steps without progress."""
    history, going = context.history, context.progress
    assert going is not None  # a need of this rule
    losses = [loss for _, loss in history.losses[-_WINDOW:]]
    if len(losses) < _WINDOW:
        return
    mean, deviation = statistics.fmean(losses), statistics.stdev(losses)
    if mean <= 0 or not math.isfinite(mean):
        return
    moves = [after - before for before, after in pairwise(losses)]
    correlation, move = lag_one(losses), statistics.median(map(abs, moves))
    baseline = (history.baseline_loss() or going.start) * history.offset()
    turns = sum(a * b < 0 for a, b in pairwise(moves)) / (len(moves) - 1)
    alternates = correlation <= AUTOCORRELATION and deviation >= SWING * mean
    # The noise of batches, too, moves the loss to and fro, but around what was learned.
    jumps = move >= MOVE * baseline and turns >= 1 / 3 and going.gain < 0 and mean >= WORSE * baseline
    if not alternates and not jumps:
        return
    severity = Severity.INFO if going.improving or going.gain > 0.9 else Severity.WARNING
    yield Finding(
        kind=Kind.OSCILLATING_LOSS,
        layer="",
        step=context.latest.step,
        severity=severity,
        evidence=(
            Evidence(
                quantity="autocorrelation of the loss at lag 1",
                value=correlation,
                threshold=AUTOCORRELATION,
                steps=_WINDOW,
            ),
            Evidence(
                quantity="standard deviation of the loss / its mean",
                value=deviation / mean,
                threshold=SWING,
                steps=_WINDOW,
            ),
            Evidence(
                quantity="median move from step to step / loss of a constant prediction",
                value=move / baseline,
                threshold=MOVE,
                steps=_WINDOW,
            ),
        ),
        message=f"the loss jumps to and fro around {mean:.3g} from step to step instead of coming down",
    )


def _remedies(context: RuleContext) -> tuple[Remedy, ...]:
    return (
        lower_learning_rate(context, times=3),
        Remedy(sentence="Use less momentum, or larger batches."),
        Remedy(
            sentence="Let the learning rate decay.", change=Change.DECAY_LEARNING_RATE, code="WarmupCosineSchedule()"
        ),
    )


RULE = Rule(
    kind=Kind.OSCILLATING_LOSS,
    order=70,
    needs=frozenset({Need.OBSERVATIONS, Need.PROGRESS}),
    find=find_oscillating_loss,
    remedies=_remedies,
)
