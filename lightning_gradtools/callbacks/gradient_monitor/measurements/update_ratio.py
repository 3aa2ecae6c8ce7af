"""How far a step moves the weights."""

from collections.abc import Sequence

from torch import Tensor

from lightning_gradtools.callbacks.gradient_monitor.report import Section, norms_of


class WeightUpdate:
    """A copy of the weights before a step, whatever optimizer takes it.

    Args:
        parameters: the weights.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._parameters = parameters
        self._old = [parameter.detach().clone() for parameter in parameters]

    def sections(self, norm_type: float) -> list[Section]:
        """Return, once and after the step, the norms of the weights before it and of their change."""
        before = norms_of("old_weight_norm", self._old, norm_type)
        for old, parameter in zip(self._old, self._parameters, strict=True):
            old.sub_(parameter.detach())  # in place: the copy is not needed any more
        return [before, norms_of("update_norm", self._old, norm_type)]
