"""Warnings of code that runs many times over, given once."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def once_each(given: set[tuple[type[Warning], str]]) -> Iterator[None]:
    """Within it, show no warning that is in ``given``, and add to it those that are shown.

    The filters are left alone: ``warnings.catch_warnings`` would make Python forget which warnings it has shown, and
    training would give all of its own again after each computation. What a filter makes an error stays one.

    Args:
        given: kind and text of each that was shown.
    """
    show = warnings.showwarning

    def show_new(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        key = (category, str(message))
        if key not in given:
            given.add(key)
            show(message, category, *where, **more)

    warnings.showwarning = show_new
    try:
        yield
    finally:
        warnings.showwarning = show
