"""The norms of the gradients, as one pass has found them."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from lightning_gradtools.callbacks.gradient_monitor.measurements.measurement import (
    MeasuredStep,
    Measurement,
    PerLayer,
    StepContext,
)


class GradientNorm(Measurement):
    """Logs ``grad_norm``."""

    def before_step(self, context: StepContext) -> Mapping[str, Tensor]:
        return {"norms": context.norms.per_parameter, "total": context.norms.total}

    def scalars(self, found: Mapping[str, Sequence[float]], step: MeasuredStep) -> Mapping[str, PerLayer]:
        return {"grad_norm": step.norms(found["total"][0], found["norms"])}
