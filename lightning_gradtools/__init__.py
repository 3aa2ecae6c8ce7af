"""Gradients, schedules, diagnosis and curvature of a network while PyTorch Lightning trains it.

Every public callback is importable from here. It is loaded when it is first asked for (PEP 562), so that importing the
package, or its mathematics alone, loads neither Lightning nor torch.
"""

from typing import TYPE_CHECKING

# The list of public names, for `lightning_gradtools.callbacks` too.
__all__ = [
    "GradientCheck",
    "GradientCheckError",
    "GradientClipping",
    "GradientMonitor",
    "HessianSpectrum",
    "LastCheckpoint",
    "PathologyDetector",
    "PathologyError",
    "ProgressBar",
    "TorchLRScheduler",
    "WarmupCosineSchedule",
    "WeightInitialization",
    "__version__",
    "lr_range_test",
]

if TYPE_CHECKING:
    from lightning_gradtools.callbacks import (
        GradientCheck,
        GradientCheckError,
        GradientClipping,
        GradientMonitor,
        HessianSpectrum,
        LastCheckpoint,
        PathologyDetector,
        PathologyError,
        ProgressBar,
        TorchLRScheduler,
        WarmupCosineSchedule,
        WeightInitialization,
    )
    from lightning_gradtools.callbacks.lr_range_test import lr_range_test

    __version__: str
else:  # a type checker that saw this function would take every misspelt name for one of ours

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name == "__version__":
            value = _installed_version()
        else:
            from importlib import import_module

            value = getattr(import_module(f"{__name__}.callbacks"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _installed_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("lightning-gradtools")
    except PackageNotFoundError:
        return "0+unknown"  # a tree that is on the path, and not installed
