r"""How far the logits of a cross-entropy have drifted.

A softmax does not change when the same number is added to all logits, so nothing in the loss holds them in place:
:math:`\log Z = \log \sum_c e^{l_c}` may wander off, until the precision of the logits no longer tells classes apart
(Chowdhery et al. 2022, arXiv:2204.02311, and Wortsman et al. 2023, arXiv:2309.14322, who add
:math:`10^{-4} \log^2 Z` to the loss).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_ROWS = 256


def log_partition(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    r"""Return [2] of a call of ``cross_entropy``: the mean of :math:`|\log Z|`, and of the largest logit - their mean.

    Of at most 256 of its rows; None where there are none.
    """
    logits = args[0] if args else kwargs.get("input")
    if not isinstance(logits, Tensor) or logits.dim() < 2 or logits.shape[1] < 2:
        return None
    rows = logits.detach()
    rows = rows[:: -(-len(rows) // _ROWS)]
    if rows.dim() > 2:
        rows = rows.flatten(2)
        most = max(1, _ROWS // len(rows))
        rows = rows[:, :, :: -(-rows.shape[2] // most)]
    rows = rows.float()
    return torch.stack([rows.logsumexp(1).abs().mean(), (rows.amax(1) - rows.mean(1)).mean()])
