r"""Is the loss moving? The consequence that turns an unusual number into a pathology.

Two questions, neither of which depends on the scale of the loss:

- *Has anything been learned?* The skill score where the loss is of a known kind (see
  ``lightning_gradtools.activations``), otherwise the fall of the loss since the first steps, as a share of it.
- *Is it improving now?* Welch's t between the first and the second half of the latest losses (Welch 1947, Biometrika
  34:28), and the fall between them as a share of the level.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lightning_gradtools.diagnosis.observation import History

SHORT, LONG, TRANSIENT = 30, 100, 20  # steps
LATE, LITTLE = 0.5, 0.1  # of the run; learned, as a share of what there is
VERY_LATE = 0.8  # of the run
LEAST_PATIENCE, MOST_PATIENCE = 60, 1000  # steps
FAR = 2.0  # loss of predicting zero / baseline loss, of targets whose mean is beyond their deviation
_T = 3.0  # standard errors; by chance once in 700 windows
_LEAST_FALL = 0.01  # of the level, between the halves of a window


@dataclass(frozen=True)
class Progress:
    """How training is getting on.

    Attributes:
        steps: number of losses seen lately, at most :data:`LONG`.
        level: median of the latest ten losses.
        start: median of the run's first losses.
        gain: 1 - level / baseline loss where that is known, otherwise 1 - level / start.
        improving: whether the loss falls, beyond noise and by a share that matters.
        t: Welch's t of that fall, the larger of two; positive if it falls.
        noise: standard deviation of the latest losses.
        has_baseline: whether the baseline loss is known; else ``gain`` is what the loss has come down by since the
            start, which tells little: a loss may start where it has to stay, as an ELBO or a contrastive one.
    """

    steps: int
    level: float
    start: float
    gain: float
    improving: bool
    t: float
    noise: float
    has_baseline: bool = True

    def nothing_learned(self, least: float = 0.1) -> bool:
        """Say whether the run is hardly better than a constant prediction, and not on its way to be."""
        return self.gain < least and not self.improving


def progress(history: History) -> Progress | None:
    """Return how training is getting on, or None before ten losses or where there is no single loss.

    It improves if it does over the latest :data:`SHORT` steps, or slowly over the latest :data:`LONG`, those of the
    run's first transient left out: any network soon learns its output's mean.
    """
    losses = [loss for _, loss in history.losses]
    if len(losses) < 10 or not history.first_losses:
        return None
    level, start = statistics.median(losses[-10:]), statistics.median(history.first_losses)
    gain = _gain(history, level, start)
    trend = _trend(losses[-SHORT:])
    settled = [loss for step, loss in history.losses[-LONG:] if step >= TRANSIENT]
    slow = _trend(settled) if len(settled) > SHORT else trend
    steps = min(len(losses), LONG)
    noise = math.sqrt(_variance(losses[-SHORT:]))
    has_baseline = history.baseline_loss() is not None or history.skill() is not None
    falls, t = trend.falls or slow.falls, max(trend.t, slow.t)
    return Progress(steps, level, start, gain, falls, t, noise, has_baseline)


def _gain(history: History, level: float, start: float) -> float:
    baseline, skill = history.baseline_loss(), history.skill()
    if baseline:
        return 1 - level / baseline
    if skill is not None:  # near perfection from the first step on
        return skill
    return 1 - level / start if start > 0 else math.nan


def patience(history: History) -> int:
    """Return after how many steps without progress a run counts as stuck: a third of it, as far as that is known.

    Networks may stand on a plateau first (parity, weights that start small, a contrastive loss), the longer the longer
    their training is meant to be; but a thousand steps are worth a word in any run.
    """
    third = (history.planned_steps or 0) // 3
    return min(max(LEAST_PATIENCE, third), MOST_PATIENCE)


def too_slow(history: History, going: Progress) -> bool:
    """Say whether half of the run is over, or four fifths while the loss falls, and next to nothing was learned.

    Of targets far from zero the mean is learned first: while the loss comes down from there that is something.
    """
    if going.improving and history.offset() > FAR and going.level < going.start / FAR:
        return False
    return history.share_done() >= (VERY_LATE if going.improving else LATE) and going.gain < LITTLE


class _Trend(NamedTuple):
    t: float
    falls: bool


def _variance(values: Sequence[float]) -> float:
    """Return the sample variance; the standard library's is exact, and a hundred times slower."""
    mean = statistics.fmean(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _trend(losses: Sequence[float]) -> _Trend:
    half = len(losses) // 2
    before, after = losses[:half], losses[half:]
    means = statistics.fmean(before), statistics.fmean(after)
    error = math.sqrt(_variance(before) / len(before) + _variance(after) / len(after))
    fall = means[0] - means[1]
    t = fall / error if error > 0 else math.copysign(math.inf, fall) if fall else 0.0
    return _Trend(t, t > _T and fall > _LEAST_FALL * abs(means[0]))
