r"""A threshold for clipping that follows the norms of the steps before.

Two rules, both of which a NaN or infinity leaves untouched: a norm that is not finite is not remembered.

- Percentile (AutoClip: Seetharaman et al. 2020, arXiv:2007.14469): clip to the q-th percentile of the norms
  so far, this step's included, in the paper of the whole run with q = 10, here of the last ``window`` steps.
- Robust z-score (after ZClip: Kumar et al. 2025, arXiv:2504.02507, which takes mean and standard deviation in
  moving averages, with z = 2.5 after 25 steps): clip to

  .. math:: m + z \cdot 1.4826 \,\mathrm{MAD}, \qquad m = \mathrm{median}, \quad
            \mathrm{MAD} = \mathrm{median}\,|x - m|

  of the norms *before* this step. 1.4826 makes MAD the standard deviation of normal data. Up to half of the
  norms may be outliers before the threshold follows them, so norms are remembered unclipped and a lasting
  change of level is accepted after half a window. The deviation is taken as 1% of the median at least: norms
  that hardly vary must not make an ordinary one an outlier.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

LONGEST_WINDOW = 2**24  # torch.nanquantile takes no more

_NORMAL = 1.4826  # 1 / the 75% quantile of the standard normal distribution
_LEAST_DEVIATION = 0.01  # of the median


class NormHistory:
    """The last finite norms, on the device they come from, so that the host waits for nothing.

    Args:
        window: how many norms are remembered, at most :data:`LONGEST_WINDOW`.
        warmup_steps: finite norms to have seen before there is a threshold; it is infinite until then.
        values: norms to start from, oldest first.
    """

    def __init__(self, window: int, warmup_steps: int, values: Iterable[float] = ()) -> None:
        self.warmup_steps = min(warmup_steps, window)
        kept = list(values)[-window:]
        self._values = torch.full((window,), math.nan)
        self._values[: len(kept)] = torch.tensor(kept)
        self._next = torch.tensor([len(kept) % window])

    def add(self, norm: Tensor) -> None:
        """Remember ``norm`` (0-d) if it is finite."""
        if self._values.device != norm.device:
            self._values, self._next = self._values.to(norm.device), self._next.to(norm.device)
        finite = norm.isfinite()
        # The place is written in any case and, after a norm that is not finite, written again by the next.
        self._values[self._next] = torch.where(finite, norm, math.nan).to(self._values.dtype)
        self._next = (self._next + finite) % len(self._values)

    def percentile(self, q: float) -> Tensor:
        """Return the ``q``-th percentile (0 to 100), interpolated linearly, or infinity during warm-up."""
        return self._after_warmup(torch.nanquantile(self._values, q / 100))

    def robust_bound(self, z: float) -> Tensor:
        """Return median + z · 1.4826 · MAD, or infinity during warm-up."""
        median = torch.nanquantile(self._values, 0.5)
        deviation = _NORMAL * torch.nanquantile((self._values - median).abs(), 0.5)
        return self._after_warmup(median + z * torch.maximum(deviation, _LEAST_DEVIATION * median))

    def _after_warmup(self, bound: Tensor) -> Tensor:
        seen = self._values.isfinite().sum()
        return torch.where(seen >= self.warmup_steps, bound, math.inf)

    def tolist(self) -> list[float]:
        """Return what is remembered, oldest first. The host waits for the device."""
        values, start = self._values.tolist(), int(self._next)
        return [value for value in values[start:] + values[:start] if math.isfinite(value)]
