"""Ctrl-C at a moment of our choosing: where an interrupt would leave things half done, it is held back."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_came: list[int] | None = None  # None while nothing is held back


@contextmanager
def held_interrupts() -> Iterator[None]:
    """Hold a Ctrl-C back until :func:`raise_held_interrupt`, or else the end of the body.

    Only in the main thread, where signals arrive; inside another such body it changes nothing.

    Raises:
        KeyboardInterrupt: at the end, if one came.
    """
    global _came
    before = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if _came is not None or not main or not callable(before):
        yield
        return
    came = _came = []
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        _came = None
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


def raise_held_interrupt() -> None:
    """Raise a Ctrl-C that was held back; a later one is held back again.

    Raises:
        KeyboardInterrupt: if one came since the last.
    """
    if _came:
        _came.clear()
        raise KeyboardInterrupt
