"""What a rank adds to a checkpoint: only what anyone can load, and little."""

from typing import Any

import torch
from torch import Tensor

from lightning_gradtools.pytree import tree_map

_LARGEST = 2**26  # bytes


def portable(state: Any) -> Any:
    """Return ``state`` on the host, or None if a checkpoint cannot well hold it.

    It may hold tensors, numbers, text, lists, tuples and dicts, of at most 64 MiB.
    """
    return tree_map(_on_cpu, state) if _is_small_and_plain(state) else None


def on_device(device: torch.device, leaf: Any) -> Any:
    """Return ``leaf`` on ``device``, if it is a tensor."""
    return leaf.to(device) if isinstance(leaf, Tensor) else leaf


def _on_cpu(leaf: Any) -> Any:
    return leaf.detach().cpu() if isinstance(leaf, Tensor) else leaf


def _is_small_and_plain(state: Any) -> bool:
    pending, size = [state], 0
    while pending:
        each = pending.pop()
        if type(each) in (list, tuple):
            pending += each
        elif type(each) is dict:
            pending += [*each, *each.values()]
        elif type(each) is Tensor:
            size += each.numel() * each.element_size()
        elif not (each is None or type(each) in (bool, int, float, str)):
            return False
    return size <= _LARGEST
