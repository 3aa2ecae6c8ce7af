"""Is what backward returns the gradient of what forward computes, and do samples keep to themselves?"""

from lightning_gradtools.gradient_check.calls import Call, record_calls
from lightning_gradtools.gradient_check.directional import DirectionalCheck, check_direction
from lightning_gradtools.gradient_check.network import WrongGradient, find_mixing, find_wrong_gradients

__all__ = [
    "Call",
    "DirectionalCheck",
    "WrongGradient",
    "check_direction",
    "find_mixing",
    "find_wrong_gradients",
    "record_calls",
]
