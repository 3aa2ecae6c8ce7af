"""A length of training: in optimizer steps, in epochs, or as a fraction of a longer one."""

import re

from lightning_gradtools.arguments import ArgumentError, integer, number

Length = int | float | str
"""``100``: optimizer steps; ``0.05``: a fraction (``1.0``: all of it); ``"2 epochs"``: epochs."""

_EPOCHS = re.compile(r"\s*(\d+(?:\.\d+)?)\s*epochs?\s*")


def check_length(name: str, length: Length) -> Length:
    """Return ``length`` if it is one.

    Raises:
        ArgumentError: if it is not an integer of at least 0, a float in [0, 1] or a text like ``"2 epochs"``.
    """
    if isinstance(length, float):
        number(name, length, at_least=0, at_most=1)
    elif isinstance(length, str):
        if not _EPOCHS.fullmatch(length):
            raise ArgumentError(f"{name}={length!r}: a length written as text must look like '2 epochs'")
    else:
        integer(name, length, at_least=0)
    return length


def steps_in(name: str, length: Length, *, whole_steps: int | None, epoch_steps: int | None) -> int:
    """Return a length in optimizer steps, rounded to the nearest.

    Args:
        name: the argument the length came as, for the message.
        length: the length.
        whole_steps: what a fraction is of, in optimizer steps; None if that is not known.
        epoch_steps: the optimizer steps of an epoch; None if that is not known.

    Raises:
        ArgumentError: if the length is relative to something unknown.
    """
    check_length(name, length)
    if isinstance(length, int):
        return length
    if isinstance(length, float):
        if whole_steps is None:
            raise ArgumentError(
                f"{name}={length!r}: must be an integer (optimizer steps) or epochs, because this run has no "
                "known end to take a fraction of"
            )
        return round(length * whole_steps)
    if epoch_steps is None:
        raise ArgumentError(
            f"{name}={length!r}: must be an integer (optimizer steps), because this run's epochs have no known length"
        )
    match = _EPOCHS.fullmatch(length)
    assert match is not None  # checked above
    return round(float(match[1]) * epoch_steps)
