"""What a GradientMonitor measures around a step, one quantity a file."""

from lightning_gradtools.callbacks.gradient_monitor.measurements.measurement import (
    MeasuredStep,
    Measurement,
    PerLayer,
    Run,
    StepContext,
)

__all__ = ["MeasuredStep", "Measurement", "PerLayer", "Run", "StepContext"]
