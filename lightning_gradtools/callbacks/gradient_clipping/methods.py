"""The ways to clip, one class each. To add one: a subclass here, and its argument on ``GradientClipping``."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lightning_gradtools._lightning.gradient_pass import GradientPass
from lightning_gradtools.arguments import ArgumentError, integer, number
from lightning_gradtools.callbacks.gradient_clipping.groups import ClippingGroup
from lightning_gradtools.callbacks.gradient_clipping.statistics import Clipped
from lightning_gradtools.gradients.adaptive_clipping import adaptive_clip_
from lightning_gradtools.gradients.clipping import clip_by_value_, clip_coefficient
from lightning_gradtools.gradients.norm_history import LONGEST_WINDOW, NormHistory


class ClippingMethod(ABC):
    """A way to clip, and what it remembers from step to step.

    Attributes:
        name: the argument that gives its threshold, and so chooses it.
        capped_by: the name of a method whose threshold may be given as well, as the largest limit, or None.
    """

    name: ClassVar[str]
    capped_by: ClassVar[str | None] = None

    def check(self, argument: str, threshold: float, dtypes: Collection[torch.dtype] = ()) -> None:
        """Refuse what cannot be a threshold.

        Args:
            argument: what the user calls it.
            threshold: its value.
            dtypes: those of the gradients, where they are known already.

        Raises:
            ArgumentError: if it cannot.
        """
        number(argument, threshold, above=0)

    @abstractmethod
    def clip(self, group: ClippingGroup, gradients: GradientPass, threshold: float) -> Clipped | None:
        """Clip the gradients of ``group`` in place, note that in ``gradients``, and return how.

        Args:
            group: parameters to clip together.
            gradients: the norms of all gradients of the optimizer, before clipping.
            threshold: the group's.

        Returns:
            None where there is no factor to it.
        """

    def state_dict(self) -> dict[str, list[float]]:
        """Return the norms remembered, by the group's name."""
        return {}

    def load_state_dict(self, histories: Mapping[str, Sequence[float]]) -> None:  # noqa: B027 - most remember nothing
        """Remember the norms of :meth:`state_dict` instead."""


class MaxNorm(ClippingMethod):
    """Scale all gradients by one factor, so that their norm is at most the threshold."""

    name = "max_norm"

    def clip(self, group: ClippingGroup, gradients: GradientPass, threshold: float) -> Clipped | None:
        """See the base class."""
        coefficient = clip_coefficient(group.norm(gradients), threshold)
        group.scale_(gradients, coefficient)
        return Clipped(coefficient)


class ClipValue(ClippingMethod):
    """Clamp every element to plus or minus the threshold."""

    name = "clip_value"

    def check(self, argument: str, threshold: float, dtypes: Collection[torch.dtype] = ()) -> None:
        """Refuse also a bound that is beyond all elements, which torch cannot express in their dtype."""
        super().check(argument, threshold)
        for dtype in dtypes:
            largest = torch.finfo(dtype).max
            if threshold > largest:
                raise ArgumentError(
                    f"{argument}={threshold!r}: must be a finite number <= {largest:.6g},"
                    f" the largest that {dtype} of the parameters can hold"
                )

    def clip(self, group: ClippingGroup, gradients: GradientPass, threshold: float) -> Clipped | None:
        """See the base class."""
        with group.rewriting(gradients) as parameters:
            clip_by_value_(parameters, threshold)
        return None


class Adaptive(ClippingMethod):
    """AGC: limit the norm of each unit's gradient to the threshold times the norm of its weights.

    Args:
        min_weight_norm: what a smaller norm of weights counts as.
    """

    name = "adaptive"

    def __init__(self, min_weight_norm: float) -> None:
        self._min_weight_norm = number("min_weight_norm", min_weight_norm, above=0)

    def clip(self, group: ClippingGroup, gradients: GradientPass, threshold: float) -> Clipped | None:
        """See the base class."""
        with group.rewriting(gradients) as parameters:
            return Clipped(adaptive_clip_(parameters, threshold, self._min_weight_norm))


class MovingLimit(ClippingMethod):
    """As :class:`MaxNorm`, to a limit that follows the norms of the steps before (``gradients/norm_history.py``).

    Args:
        window: latest norms to look back on.
        warmup_steps: finite norms to see before there is a limit.
        max_norm: the largest limit, also before there is another; or None.
    """

    capped_by = "max_norm"

    def __init__(self, window: int, warmup_steps: int, max_norm: float | None) -> None:
        self._window = integer("window", window, at_least=2, at_most=LONGEST_WINDOW)
        self._warmup_steps = integer("warmup_steps", warmup_steps, at_least=1, at_most=window)
        self._max_norm = max_norm
        self._histories: dict[str, NormHistory] = {}  # by the group's name

    @abstractmethod
    def limit(self, history: NormHistory, norm: Tensor, threshold: float) -> Tensor:
        """Return the limit [] on the ``norm`` [] of this step before clipping, and add it to ``history``."""

    def clip(self, group: ClippingGroup, gradients: GradientPass, threshold: float) -> Clipped | None:
        """See the base class."""
        norm, history = group.norm(gradients), self._histories.get(group.name)
        if history is None:
            history = self._histories[group.name] = NormHistory(self._window, self._warmup_steps)
        limit = self.limit(history, norm, threshold)
        if self._max_norm is not None:
            limit = limit.clamp(max=self._max_norm)
        coefficient = clip_coefficient(norm, limit)
        group.scale_(gradients, coefficient)
        return Clipped(coefficient, limit)

    def state_dict(self) -> dict[str, list[float]]:
        """Return the norms remembered, by the group's name."""
        return {name: history.tolist() for name, history in self._histories.items()}

    def load_state_dict(self, histories: Mapping[str, Sequence[float]]) -> None:
        """Remember the norms of :meth:`state_dict` instead."""
        self._histories = {
            name: NormHistory(self._window, self._warmup_steps, norms) for name, norms in histories.items()
        }


class Percentile(MovingLimit):
    """AutoClip: the limit is a percentile of the latest norms, this step's among them."""

    name = "percentile"

    def check(self, argument: str, threshold: float, dtypes: Collection[torch.dtype] = ()) -> None:
        """Refuse what is no percentage."""
        number(argument, threshold, above=0, at_most=100)

    def limit(self, history: NormHistory, norm: Tensor, threshold: float) -> Tensor:
        """See the base class."""
        history.add(norm)
        return history.percentile(threshold)


class ZScore(MovingLimit):
    """After ZClip: the limit is the threshold's number of robust deviations above the median of the norms before."""

    name = "zscore"

    def limit(self, history: NormHistory, norm: Tensor, threshold: float) -> Tensor:
        """See the base class."""
        limit = history.robust_bound(threshold)
        history.add(norm)
        return limit


def chosen(thresholds: Mapping[ClippingMethod, float | None]) -> tuple[ClippingMethod, float]:
    """Return the one method that a threshold was given for, and the threshold.

    Raises:
        ArgumentError: if none or several were given, or one is out of its range.
    """
    given = {method: threshold for method, threshold in thresholds.items() if threshold is not None}
    caps = {method.capped_by for method in given}
    candidates = [method for method in given if method.name not in caps]
    if len(candidates) != 1:
        found = ", ".join(f"{method.name}={threshold!r}" for method, threshold in given.items()) or "none"
        names = ", ".join(method.name for method in thresholds)
        raise ArgumentError(f"GradientClipping: give one of {names}; got {found}")
    for method, threshold in given.items():
        method.check(method.name, threshold)
    return candidates[0], float(given[candidates[0]])
