"""What activations show, unit by unit: dead and saturated units, and one step's taps on them."""

from lightning_gradtools.activations.dead_units import DeadUnits, UnitStates
from lightning_gradtools.activations.saturation import Saturation
from lightning_gradtools.activations.step_tap import StepTap

__all__ = ["DeadUnits", "Saturation", "StepTap", "UnitStates"]
