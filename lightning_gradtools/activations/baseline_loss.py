r"""How much better a prediction is than the best constant one: a reference that no scaling of the loss can move.

The best constant prediction knows the targets' distribution and ignores the input. Its loss, the *baseline loss*, is
per sample: for
cross-entropy the entropy of the classes, for squared error the variance, for binary cross-entropy the binary entropy,
for the absolute error the mean distance from the median.
The *skill score* :math:`1 - L / L_{\mathrm{baseline}}` is 1 for perfection, 0 for the best constant, negative for worse
(Murphy 1988, Monthly Weather Review 116:2417; for squared error it is :math:`R^2`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# A few targets look more alike than they are: n of k classes seem less random by (k - 1) / 2n nats (Miller 1955).
LEAST_TARGETS = 32
_LEAST_BATCH = 8  # the median of fewer lies too close to each of them


@dataclass
class LossSample:
    """One loss and the moments of its targets, on the device.

    Attributes:
        kind: ``"classes"``, ``"squares"``, ``"bits"`` or ``"distances"``.
        loss: [] the mean loss.
        count: [] number of targets averaged over.
        first: [k] sum over samples of each target (of its one-hot code for classes); for distances [1] the loss of
            predicting zero, times the count.
        second: [k] sum of squares, for squared error; for distances [1] the baseline loss, times the count.
    """

    kind: str
    loss: Tensor
    count: Tensor
    first: Tensor
    second: Tensor


def baseline_loss(kind: str, count: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return the loss [] of the best constant prediction, from accumulated moments (see :class:`LossSample`).

    It is NaN before there are :data:`LEAST_TARGETS` of them.
    """
    p = first / count.clamp(min=1)
    if kind == "classes":
        loss = -torch.xlogy(p, p).sum()
    elif kind == "bits":
        p = p.clamp(0, 1)
        loss = -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)).mean()
    elif kind == "distances":
        loss = (second / count.clamp(min=1)).sum()
    else:
        loss = (second / count.clamp(min=1) - p.square()).clamp(min=0).mean()
    return torch.where(count < LEAST_TARGETS, torch.nan, loss)


def zero_loss(kind: str, count: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return the loss [] of predicting zero, as a network does in the beginning; NaN for classes and bits.

    For targets far from zero it is many times the baseline loss, and coming down from there is what training has to do
    first.
    """
    if kind in ("squares", "distances"):
        return ((second if kind == "squares" else first) / count.clamp(min=1)).mean()
    return torch.full_like(count, torch.nan)


def _given(args: tuple[Any, ...], kwargs: Mapping[str, Any], position: int, name: str, default: Any = None) -> Any:
    return args[position] if len(args) > position else kwargs.get(name, default)


def _plain(kwargs: Mapping[str, Any]) -> bool:
    return kwargs.get("weight") is None and kwargs.get("pos_weight") is None


def _classes(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Tensor) -> LossSample | None:
    scores, target = _given(args, kwargs, 0, "input"), _given(args, kwargs, 1, "target")
    plain = _plain(kwargs) and len(args) <= 2 and not kwargs.get("label_smoothing") and scores.dim() >= 2
    if not plain or target.is_floating_point() or kwargs.get("reduction", "mean") == "sum":
        return None
    kept = target.reshape(-1) != kwargs.get("ignore_index", -100)
    safe = torch.where(kept, target.reshape(-1), 0)
    counts = torch.zeros(scores.shape[1], dtype=torch.float32, device=scores.device).scatter_add_(
        0, safe, kept.to(torch.float32)
    )
    return LossSample("classes", out.detach().float().mean(), kept.sum().float(), counts, torch.zeros_like(counts))


def _moments(kind: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Tensor) -> LossSample | None:
    predicted, target = _given(args, kwargs, 0, "input"), _given(args, kwargs, 1, "target")
    mean = kwargs.get("reduction", "mean") != "sum" and len(args) <= 2 and _plain(kwargs)
    if not mean or predicted.shape != target.shape or not target.dim():
        return None
    rows = target.detach().float().reshape(len(target), -1)
    count = rows.new_full((), len(rows))
    return LossSample(kind, out.detach().float().mean(), count, rows.sum(0), rows.square().sum(0))


def _squares(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Tensor) -> LossSample | None:
    return _moments("squares", args, kwargs, out)


def _bits(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Tensor) -> LossSample | None:
    return _moments("bits", args, kwargs, out)


def _distances(
    function: Callable[..., Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Tensor
) -> LossSample | None:
    """Take the median of the batch: the best constant for the absolute error, and nearly so for Huber's."""
    predicted, target = _given(args, kwargs, 0, "input"), _given(args, kwargs, 1, "target")
    mean = kwargs.get("reduction", "mean") == "mean" and len(args) <= 2 and _plain(kwargs)
    if not mean or predicted.shape != target.shape or not target.dim() or len(target) < _LEAST_BATCH:
        return None
    rows = target.detach().float().reshape(len(target), -1)
    settings = {key: kwargs[key] for key in ("beta", "delta") if key in kwargs}
    loss = function(rows.median(0).values.expand_as(rows), rows, **settings)
    zero = function(torch.zeros_like(rows), rows, **settings)
    count = rows.new_full((), len(rows))
    return LossSample("distances", out.detach().float().mean(), count, count * zero.reshape(1), count * loss.reshape(1))


# Loss function in torch.nn.functional -> what to keep of a call.
KNOWN_LOSSES: Mapping[str, Callable[[tuple[Any, ...], Mapping[str, Any], Tensor], LossSample | None]] = {
    "cross_entropy": _classes,
    "nll_loss": _classes,
    "mse_loss": _squares,
    "l1_loss": partial(_distances, F.l1_loss),
    "smooth_l1_loss": partial(_distances, F.smooth_l1_loss),
    "huber_loss": partial(_distances, F.huber_loss),
    "binary_cross_entropy": _bits,
    "binary_cross_entropy_with_logits": _bits,
}
