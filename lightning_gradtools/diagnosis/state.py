"""Dataclasses from saved states: a checkpoint of another version may have fields more, or fields fewer."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

T = TypeVar("T")


def from_state(kind: type[T], state: Mapping[str, Any]) -> T:
    """Return the dataclass ``kind`` made of those entries of ``state`` that it has a field for.

    Args:
        kind: a dataclass; fields that ``state`` lacks take their defaults.
        state: values by the names of fields.

    Raises:
        TypeError: if ``kind`` is no dataclass, or ``state`` lacks a field without a default.
    """
    if not is_dataclass(kind):
        raise TypeError(f"{kind!r}: must be a dataclass")
    known = {each.name for each in fields(kind)}
    return kind(**{name: value for name, value in state.items() if name in known})
