"""The random state of training, left as it was by what runs beside it."""

from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch.utilities.seed import isolate_rng


@contextmanager
def isolated_random_state() -> Iterator[None]:
    """Put the random state of torch, every device, NumPy and Python back at the end, also after an error.

    Lightning's ``isolate_rng`` does so only where its body ends well.
    """
    error: BaseException | None = None
    with isolate_rng():
        try:
            yield
        except BaseException as raised:
            error = raised
    if error is not None:
        raise error
