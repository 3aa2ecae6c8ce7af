"""The argument ``norm_type``."""

import math

from lightning_gradtools.arguments import ArgumentError


def norm_type_of(value: float | str) -> float:
    """Return the p of a norm given as 1, 2, infinity or ``"inf"`` (which is how YAML can write it).

    Raises:
        ArgumentError: if it is none of these.
    """
    if value == "inf":
        return math.inf
    if isinstance(value, bool) or value not in (1, 2, math.inf):
        raise ArgumentError(f"norm_type={value!r}: must be 1, 2 or 'inf'")
    return float(value)
