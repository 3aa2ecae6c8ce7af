"""Losses far above what came before them: a batch that is unlike the others, or steps that undo what was learned."""

import math
import statistics
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from lightning_gradtools.diagnosis.finding import Evidence, Finding, Kind, Remedy, Severity
from lightning_gradtools.diagnosis.observation import History
from lightning_gradtools.diagnosis.remedies import CLIP_NORM, WARM_UP, lower_learning_rate
from lightning_gradtools.diagnosis.rule import Need, Rule, RuleContext

WINDOW, SIGMA = 128, 6.0  # steps, standard deviations: those of OLMo-core's SkipStepOptimizer
LOST = 0.1  # of what was learned before
_LEAST = 64  # losses that a loss is compared with: half a window
_CALM = 5  # steps without one, after which the next is another spike
_EPISODES = 2
_LEVEL = 10  # losses whose median is where the loss stands

_DATA = Remedy(sentence="Look at the batches of these steps: broken or repeated samples look like this.")


@dataclass(frozen=True)
class Spike:
    """Steps in a row, few calm ones among them, whose losses stick out.

    Attributes:
        step: the first.
        count: how many losses stick out.
        loss: the largest of them.
        height: that of the first, in standard deviations above the mean before.
        level: median of the ten losses before it.
        deviation: the standard deviation.
    """

    step: int
    count: int
    loss: float
    height: float
    level: float
    deviation: float


def spikes(losses: Sequence[tuple[int, float]]) -> list[Spike]:
    """Return the spikes of (step, loss): losses :data:`SIGMA` deviations above the mean of the :data:`WINDOW` before.

    Losses that stick out are left out of the mean and deviation that later ones are compared with, or the second step
    of a spike would hide in the first. After ten of them in a row that is where the loss stands.
    """
    found: list[Spike] = []
    window: deque[float] = deque()
    origin = losses[0][1] if losses else 0.0  # squares of what is left are small, and sums exact enough
    total = squares = 0.0
    last = -math.inf
    for step, loss in losses:
        x = loss - origin
        count = len(window)
        mean = total / count if count else 0.0
        deviation = math.sqrt(max(0.0, squares / count - mean * mean)) if count else 0.0
        goes_on = bool(found) and step - last <= _CALM
        settled = goes_on and found[-1].count >= _LEVEL
        if count >= _LEAST and deviation > 0 and x - mean > SIGMA * deviation and not settled:
            if goes_on:
                found[-1] = replace(found[-1], count=found[-1].count + 1, loss=max(found[-1].loss, loss))
            else:
                level = origin + statistics.median(list(window)[-_LEVEL:])
                found.append(Spike(step, 1, loss, (x - mean) / deviation, level, deviation))
            last = step
            continue
        window.append(x)
        total, squares = total + x, squares + x * x
        if len(window) > WINDOW:
            old = window.popleft()
            total, squares = total - old, squares - old * old
    return found


def find_loss_spike(context: RuleContext) -> Iterator[Finding]:
    """Losses of the latest :data:`WINDOW` steps that stick out by :data:`SIGMA` standard deviations.

    A batch may be unlike the others, and a run gets over a spike: an ``info``. Several spikes after which a tenth of
    what had been learned is gone, and stays gone, are a ``warning``.

    Source: the share of losses that stick out is the spike score of OLMo 2 (arXiv:2501.00656), here over fewer steps.
    """
    history, going = context.history, context.progress
    assert going is not None  # a need of this rule
    found = spikes(history.losses)
    lately = [each for each in found if each.step > history.step - WINDOW]
    if not lately:
        return
    highest = max(lately, key=lambda each: each.loss)
    lost = _lost(history, found[0], going.start)
    lasting = len(found) >= _EPISODES and lost > LOST
    share = sum(each.count for each in lately) / min(len(history.losses), WINDOW)
    steps = history.step - lately[0].step + 1
    number = f"{len(lately)} times" if len(lately) > 1 else "once"
    yield Finding(
        kind=Kind.LOSS_SPIKE,
        layer="",
        step=context.latest.step,
        severity=Severity.WARNING if lasting else Severity.INFO,
        evidence=(
            Evidence(
                quantity="height of the loss above the mean before, in standard deviations",
                value=highest.height,
                threshold=SIGMA,
                steps=steps,
            ),
            Evidence(quantity="share of the latest steps that stick out", value=share, threshold=0.0, steps=steps),
            Evidence(quantity="share of what had been learned that is lost", value=lost, threshold=LOST, steps=steps),
        ),
        message=(
            f"the loss has leapt {number} lately, at step {highest.step} from {highest.level:.3g} to {highest.loss:.3g}"
            + (f", and stands at {going.level:.3g} since" if lasting else "; it may be one batch unlike the others")
        ),
    )


def _lost(history: History, first: Spike, start: float) -> float:
    """Return how much of what had been learned before the ``first`` spike is gone."""
    latest = [loss for _, loss in history.losses[-_LEVEL:]]
    rise = statistics.median(latest) - first.level
    if rise <= first.deviation:
        return 0.0
    learned = start - first.level
    return rise / learned if learned > 0 else 0.0


def _remedies(context: RuleContext) -> tuple[Remedy, ...]:
    return (CLIP_NORM, lower_learning_rate(context, times=3), _DATA, WARM_UP)


RULE = Rule(
    kind=Kind.LOSS_SPIKE,
    order=66,
    needs=frozenset({Need.OBSERVATIONS, Need.PROGRESS}),
    find=find_loss_spike,
    remedies=_remedies,
)
