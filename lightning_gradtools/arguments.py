"""Checks of arguments: each failure is one line that names the argument, its value and what is allowed."""

import difflib
import inspect
import math
from collections.abc import Collection, Iterable


class ArgumentError(ValueError):
    """An argument that cannot work, found before any training was spent on it."""


def suggest(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the known word nearest to ``word``, or an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def one_of(name: str, value: str, allowed: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``allowed``.

    Raises:
        ArgumentError: if it is not; the message lists what is, and the nearest word.
    """
    allowed = list(allowed)
    if value in allowed:
        return value
    hint = suggest(value, allowed) if isinstance(value, str) else ""
    raise ArgumentError(f"{name}={value!r}: must be one of {', '.join(map(str, allowed))}{hint}")


def number(
    name: str,
    value: float,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> float:
    """Return ``value`` as a float if it is a finite number within the bounds.

    Raises:
        ArgumentError: if it is not a real number (a bool is not), not finite, or out of bounds.
    """
    bounds = [
        f"{sign} {bound:g}"
        for sign, bound in ((">=", at_least), (">", above), ("<=", at_most), ("<", below))
        if bound is not None
    ]
    fits = (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
        and (at_least is None or value >= at_least)
        and (above is None or value > above)
        and (at_most is None or value <= at_most)
        and (below is None or value < below)
    )
    if not fits:
        raise ArgumentError(f"{name}={value!r}: must be a finite number {' and '.join(bounds)}".rstrip())
    return float(value)


def integer(name: str, value: int, *, at_least: int | None = None, at_most: int | None = None) -> int:
    """Return ``value`` if it is an integer within the bounds.

    Raises:
        ArgumentError: if it is not an integer (a bool or 3.0 is not), or out of bounds.
    """
    fits = (
        isinstance(value, int)
        and not isinstance(value, bool)
        and (at_least is None or value >= at_least)
        and (at_most is None or value <= at_most)
    )
    if not fits:
        bounds = [f"{sign} {bound}" for sign, bound in ((">=", at_least), ("<=", at_most)) if bound is not None]
        raise ArgumentError(f"{name}={value!r}: must be an integer {' and '.join(bounds)}".rstrip())
    return value


def boolean(name: str, value: bool) -> bool:
    """Return ``value`` if it is True or False.

    Raises:
        ArgumentError: if it is anything else: ``"no"`` would count as true.
    """
    if not isinstance(value, bool):
        raise ArgumentError(f"{name}={value!r}: must be True or False")
    return value


def described(built: object, **kept: object) -> str:
    """Return ``ClassName(argument=value, ...)`` with the arguments of the constructor that are not as by default.

    The value of an argument is that of the attribute of the same name; an argument without one is left out. Empty
    collections are alike.

    Args:
        built: what to describe.
        kept: values of arguments that it keeps under another name.
    """
    shown = []
    for name, parameter in inspect.signature(type(built)).parameters.items():
        value = kept.get(name, getattr(built, name, parameter.default))
        if not inspect.ismethod(value) and not _alike(value, parameter.default):
            shown.append(f"{name}={value!r}")
    return f"{type(built).__name__}({', '.join(shown)})"


def _alike(value: object, default: object) -> bool:
    both_empty = all(isinstance(each, Collection) and not each for each in (value, default))
    return both_empty or value is default or bool(value == default)
