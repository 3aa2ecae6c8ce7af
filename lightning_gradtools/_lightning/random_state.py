"""The random state of training, left as it was by what runs beside it."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
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


def random_state() -> dict[str, Any]:
    """Return the random state of Python, NumPy, torch and its CUDA devices, as plain types and tensors."""
    name, numbers, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 (the global one, which others draw from)
    return {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(np.asarray(numbers).astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def go_on_from(state: Mapping[str, Any]) -> None:
    """Make the random state what :func:`random_state` returned; of CUDA's, those of the devices that there are."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, values, *rest = state["numpy"]
    np.random.set_state((name, values.cpu().numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    for device, each in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(each.cpu(), device)
