"""Histograms of the gradients before clipping."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from lightning_gradtools.callbacks.gradient_monitor.measurements.measurement import (
    MeasuredStep,
    Measurement,
    StepContext,
)
from lightning_gradtools.gradients.histogram import Histogram, histogram


class GradientHistograms(Measurement):
    """Logs ``grad_histogram/<parameter>``. The host waits for each of them."""

    def __init__(self) -> None:
        self._found: dict[int, dict[str, Histogram]] = {}  # by the optimizer's index

    def before_step(self, context: StepContext) -> Mapping[str, Tensor]:
        found = {f"grad_histogram/{name}": histogram(gradient) for name, gradient in context.reported()}
        self._found[context.index] = {key: each for key, each in found.items() if each is not None}
        return {}

    def histograms(self) -> Mapping[str, Histogram]:
        found, self._found = self._found, {}
        return {key: each for one in found.values() for key, each in one.items()}

    def scalars(self, found: Mapping[str, Sequence[float]], step: MeasuredStep) -> Mapping[str, float]:
        return {}

    def release(self) -> None:
        self._found.clear()
