"""All programs: a file holds, as `PROGRAMS`, those that have one thing in common."""

import pkgutil
from functools import lru_cache
from importlib import import_module

from real_faults.program import Program


@lru_cache
def programs() -> dict[str, Program]:
    """Return all programs by name, file by file.

    Raises:
        ValueError: if two programs have the same name.
    """
    found: dict[str, Program] = {}
    for module in pkgutil.iter_modules(__path__, prefix=f"{__name__}."):
        for program in import_module(module.name).PROGRAMS:
            if program.name in found:
                raise ValueError(f"two programs are called {program.name!r}, one of them in {module.name}")
            found[program.name] = program
    return found
