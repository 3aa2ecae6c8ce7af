"""95 % intervals for what the report prints."""

import random
import statistics
from collections.abc import Sequence

Z = 1.96


def wilson(hits: int, total: int) -> tuple[float, float]:
    """Return the interval of a share.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    if not total:
        return 0.0, 1.0
    share, spread = hits / total, Z**2 / total
    centre = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * (share * (1 - share) / total + spread / (4 * total)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def of_median(values: Sequence[float], draws: int = 1000) -> tuple[float, float]:
    """Return the interval of a median, by the percentile bootstrap."""
    generator = random.Random(0)
    medians = sorted(statistics.median(generator.choices(values, k=len(values))) for _ in range(draws))
    return medians[int(0.025 * draws)], medians[int(0.975 * draws)]
