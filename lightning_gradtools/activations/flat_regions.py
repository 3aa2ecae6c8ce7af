r"""Where activation functions are flat: their derivative is zero, or under 2% of its largest value.

A unit all of whose inputs lie there passes no gradient. For one-sided functions the flat side is everything below a
cutoff; ReLU's is exact. The others' cutoffs are where the derivative falls under 2% (by magnitude) for good:
GELU :math:`x < -2.9`, SiLU and Mish :math:`x < -6`, ELU, CELU, SELU and softplus :math:`x < -3.9 = \ln 0.02`.
Two-sided ones saturate: :math:`1 - \tanh^2 x < 0.02` where :math:`|\tanh x| > 0.99`, and
:math:`4 \sigma (1 - \sigma) < 0.02` where :math:`|\sigma - 1/2| > 0.495`.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# Function name (an in-place variant's without its underscore) -> inputs below this are on the flat side.
FLAT_BELOW: Mapping[str, float] = {
    "relu": 0.0,
    "relu6": 0.0,
    "hardswish": -3.0,
    "gelu": -2.9,
    "silu": -6.0,
    "mish": -6.0,
    "elu": -3.9,
    "celu": -3.9,
    "selu": -3.9,
    "softplus": -3.9,
}
# Function name -> (centre, distance from it beyond which an output is on a flat side).
FLAT_BEYOND: Mapping[str, tuple[float, float]] = {
    "tanh": (0.0, 0.99),
    "hardtanh": (0.0, 0.99),
    "sigmoid": (0.5, 0.495),
    "hardsigmoid": (0.5, 0.495),
}


def one_sided(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """Return the one-sided activation that a call of the function ``name`` is, or None.

    ``clamp(x, min=0)`` is a ReLU by another name.
    """
    if name in FLAT_BELOW:
        return name
    if name in ("clamp", "clamp_min"):
        low = kwargs.get("min", args[1] if len(args) > 1 else None)
        high = kwargs.get("max", args[2] if len(args) > 2 else None)
        if isinstance(low, (int, float)) and low == 0 and high is None:
            return "relu"
    return None


def unit_dim(dims: int, channels_first: bool) -> int:
    """Return the dimension of the units of an activation: channels for a convolution, the last one otherwise."""
    return 1 if dims == 4 or dims == 5 or (channels_first and dims >= 3) else dims - 1


def largest_input(x: Tensor, dim: int) -> Tensor:
    """Return the largest input of each unit [units] over all samples and positions."""
    others = [d for d in range(x.dim()) if d != dim]
    return x.detach().amax(others) if others else x.detach()


def flat_share(name: str, out: Tensor, dim: int) -> Tensor:
    """Return for each unit [units] the share of its outputs that lie on a flat side of a two-sided function."""
    centre, distance = FLAT_BEYOND[name]
    flat = ((out.detach() - centre).abs() > distance).to(torch.float32)
    others = [d for d in range(out.dim()) if d != dim]
    return flat.mean(others) if others else flat


def saturated_rows(scores: Tensor, probabilities: Tensor, dim: int) -> Tensor:
    """Return the share [1] of softmax rows that are all but one-hot: the largest probability is over 0.99.

    Scores under -1e8 are masked out. Rows with a single possible outcome (attention's first row under a causal mask)
    are one-hot by construction and do not count.
    """
    possible = (scores.detach() > -1e8).sum(dim) > 1
    hot = (probabilities.detach().amax(dim) > 0.99) & possible
    return (hot.sum() / possible.sum().clamp(min=1)).to(torch.float32).reshape(1)
