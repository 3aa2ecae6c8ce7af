"""Limits that follow the norms of the steps before, one for each unit that is clipped."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from lightning_gradtools.gradients.norm_history import NormHistory


class MovingLimits:
    """Limits by percentile or zscore (see ``gradients/norm_history.py``).

    Args:
        window: latest norms to look back on.
        warmup_steps: finite norms to see before there is a limit.
    """

    def __init__(self, window: int, warmup_steps: int) -> None:
        self._window, self._warmup_steps = window, warmup_steps
        self._histories: dict[str, NormHistory] = {}  # by the unit's name

    def limit(self, method: str, name: str, norm: Tensor, threshold: float, max_norm: float | None) -> Tensor:
        """Return the limit [] on the unit ``name`` of this ``norm`` [], which is remembered.

        Args:
            method: ``"percentile"``, which has this step's norm in it, or ``"zscore"``, which has not.
            name: the unit's name.
            norm: the norm of its gradients, not clipped.
            threshold: the percentile, or the number of robust standard deviations.
            max_norm: the largest limit, or None.
        """
        history = self._histories.setdefault(name, NormHistory(self._window, self._warmup_steps))
        if method == "percentile":
            history.add(norm)
            limit = history.percentile(threshold)
        else:
            limit = history.robust_bound(threshold)
            history.add(norm)
        return limit if max_norm is None else limit.clamp(max=max_norm)

    def state_dict(self) -> dict[str, list[float]]:
        """Return the norms remembered, by unit."""
        return {name: history.tolist() for name, history in self._histories.items()}

    def load_state_dict(self, state_dict: Mapping[str, Sequence[float]]) -> None:
        """Remember the norms of ``state_dict`` instead."""
        self._histories = {
            name: NormHistory(self._window, self._warmup_steps, norms) for name, norms in state_dict.items()
        }
