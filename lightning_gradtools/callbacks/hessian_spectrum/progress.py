"""What is told of a computation that takes long."""

import time
from collections.abc import Callable

from lightning.pytorch.utilities import rank_zero_info

_SLOW = 5.0  # seconds after which a computation reports its progress


def progress() -> Callable[[int, float], None]:
    """Return a report of one long computation: a line each time that its duration has doubled."""
    begun, due = time.perf_counter(), _SLOW

    def report(products: int, error: float) -> None:
        nonlocal due
        elapsed = time.perf_counter() - begun
        if elapsed >= due:
            due = 2 * elapsed
            rank_zero_info(f"HessianSpectrum: {products} products in {elapsed:.0f} s, relative error {error:.1g}")

    return report
