"""The two packages that Lightning comes as: ``lightning.pytorch`` and ``pytorch_lightning``, the same classes twice.

A run is of one of them, and to us both are one: a class of theirs is recognised by its name, and what a Trainer is to
be given is taken from the package that it is of itself. Nothing here imports one that the user has not.
"""

from importlib import import_module
from typing import Any

_PACKAGES = {"lightning": "lightning.pytorch", "pytorch_lightning": "pytorch_lightning"}
_ROOTS = frozenset({*_PACKAGES, "lightning_fabric"})  # `pytorch_lightning` has its fabric in a package beside it


def lightnings_classes(thing: object, *names: str) -> list[type]:
    """Return the classes of Lightning's, of either flavour, that have one of these names and ``thing`` for instance."""
    return [cls for cls in type(thing).__mro__ if cls.__name__ in names and _root(cls) in _ROOTS]


def is_a(thing: object, *names: str) -> bool:
    """Say whether ``thing`` is an instance of a class of Lightning's, of either flavour, of one of these names."""
    return bool(lightnings_classes(thing, *names))


def package_of(thing: object) -> str:
    """Return the package that a Trainer, module or data module is of: ``lightning.pytorch`` or ``pytorch_lightning``.

    Raises:
        TypeError: for what is of neither.
    """
    for cls in type(thing).__mro__:
        if _root(cls) in _PACKAGES:
            return _PACKAGES[_root(cls)]
    raise TypeError(f"{type(thing).__name__} is of no class of Lightning's")


def counterpart(thing: object, module: str, name: str) -> Any:
    """Return what is called ``name`` in ``module`` of the package that ``thing`` is of.

    Args:
        thing: a Trainer, module or data module.
        module: its path in the package, such as ``"callbacks"``.
        name: of the class or function.
    """
    return getattr(import_module(f"{package_of(thing)}.{module}"), name)


def is_overridden(method: str, thing: object) -> bool:
    """Say whether a module or data module defines ``method`` of Lightning's itself."""
    return bool(counterpart(thing, "utilities.model_helpers", "is_overridden")(method, thing))


def _root(cls: type) -> str:
    return cls.__module__.partition(".")[0]
