r"""Is the loss moving? The consequence that turns an unusual number into a pathology.

Two questions, neither of which depends on the scale of the loss:

- *Has anything been learned?* The skill score where the loss is of a known kind (see
  ``activations/guessing.py``), otherwise the fall of the loss since the first steps, as a share of it.
- *Is it improving now?* Welch's t between the first and the second half of the latest losses (Welch 1947, Biometrika
  34:28), and the fall between them as a share of the level.
"""

import math
import statistics
from dataclasses import dataclass

from lightning_gradtools.diagnosis.observation import History

WINDOW = 60  # losses compared
_T = 3.0  # standard errors; by chance once in 700 windows
_LEAST_FALL = 0.01  # of the level, between the halves of a window


@dataclass(frozen=True)
class Progress:
    """How training is getting on.

    Attributes:
        steps: number of losses seen lately, at most :data:`WINDOW`.
        level: median of the latest ten losses.
        start: median of the run's first losses.
        gain: skill where it is known, otherwise 1 - level / start.
        improving: whether the loss falls, beyond noise and by a share that matters.
        t: Welch's t of that fall; positive if it falls.
        noise: standard deviation of the second half.
    """

    steps: int
    level: float
    start: float
    gain: float
    improving: bool
    t: float
    noise: float

    def nothing_learned(self, least: float = 0.1) -> bool:
        """Say whether the run is hardly better than guessing, and not on its way to be."""
        return self.gain < least and not self.improving


def progress(history: History, window: int = WINDOW) -> Progress | None:
    """Return how training is getting on, or None before ten losses or where there is no single loss."""
    losses = [loss for _, loss in history.losses[-window:]]
    if len(losses) < 10 or not history.first_losses:
        return None
    level, start = statistics.median(losses[-10:]), statistics.median(history.first_losses)
    skill = history.skill()
    gain = skill if skill is not None else (1 - level / start if start > 0 else math.nan)
    half = len(losses) // 2
    before, after = losses[:half], losses[half:]
    means = statistics.fmean(before), statistics.fmean(after)
    variances = statistics.variance(before), statistics.variance(after)
    error = math.sqrt(variances[0] / len(before) + variances[1] / len(after))
    fall = means[0] - means[1]
    t = fall / error if error > 0 else (math.inf if fall > 0 else -math.inf if fall < 0 else 0.0)
    improving = t > _T and fall > _LEAST_FALL * abs(means[0])
    return Progress(len(losses), level, start, gain, improving, t, math.sqrt(variances[1]))
