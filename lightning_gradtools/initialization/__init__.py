"""Weights at step 0: schemes that keep signals and gradients at one scale through the depth of a network."""

from lightning_gradtools.initialization.gain import activation_gain
from lightning_gradtools.initialization.signal_path import SignalPath, trace_signal_path
from lightning_gradtools.initialization.weights import (
    NOT_DEFAULT,
    SCHEMES,
    Initialization,
    InitializedLayer,
    initialize_,
    is_torch_default,
    lsuv_,
    scale_,
)

__all__ = [
    "NOT_DEFAULT",
    "SCHEMES",
    "Initialization",
    "InitializedLayer",
    "SignalPath",
    "activation_gain",
    "initialize_",
    "is_torch_default",
    "lsuv_",
    "scale_",
    "trace_signal_path",
]
