"""The norms of the weights before a step."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from lightning_gradtools.callbacks.gradient_monitor.measurements.measurement import (
    MeasuredStep,
    Measurement,
    PerLayer,
    StepContext,
)
from lightning_gradtools.gradients.norms import tensor_norms, total_norm


class WeightNorm(Measurement):
    """Logs ``weight_norm``."""

    def __init__(self) -> None:
        self._of_this_step: dict[int, Mapping[str, Tensor]] = {}  # by the optimizer's index

    def before_step(self, context: StepContext) -> Mapping[str, Tensor]:
        # A later evaluation of the same step (LBFGS) finds weights that have moved already.
        if context.index not in self._of_this_step:
            norms = tensor_norms([each.detach() for each in context.norms.parameters], context.norm_type)
            total = total_norm(norms, context.norm_type)
            self._of_this_step[context.index] = {"norms": norms, "norms_total": total}
        return self._of_this_step[context.index]

    def after_step(self, context: StepContext) -> Mapping[str, Tensor]:
        self._of_this_step.pop(context.index, None)
        return {}

    def scalars(self, found: Mapping[str, Sequence[float]], step: MeasuredStep) -> Mapping[str, PerLayer]:
        return {"weight_norm": step.norms(found["norms_total"][0], found["norms"])}

    def release(self) -> None:
        self._of_this_step.clear()
