"""Which way to clip, and how far: the choice that the arguments of ``GradientClipping`` make."""

from lightning_gradtools.arguments import ArgumentError, number


def chosen_method(**thresholds: float | None) -> tuple[str, float]:
    """Return the one method that a threshold was given for, and the threshold.

    ``max_norm`` may stand beside ``percentile`` and ``zscore``.

    Raises:
        ArgumentError: if none or several were given, or one is out of its range.
    """
    given = {name: value for name, value in thresholds.items() if value is not None}
    if len(given) == 2 and "max_norm" in given and given.keys() & {"percentile", "zscore"}:
        checked_threshold("max_norm", given.pop("max_norm"), "max_norm")
    if len(given) != 1:
        found = ", ".join(f"{name}={value!r}" for name, value in given.items()) or "none"
        raise ArgumentError(f"GradientClipping: give one of {', '.join(thresholds)}; got {found}")
    name, value = next(iter(given.items()))
    return name, checked_threshold(name, value, name)


def checked_threshold(name: str, value: float, method: str) -> float:
    """Return ``value`` if it can be a threshold of ``method``.

    Raises:
        ArgumentError: if it is not; it calls the value ``name``.
    """
    return number(name, value, above=0, at_most=100 if method == "percentile" else None)
