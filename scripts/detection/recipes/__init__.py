"""All recipes: a file holds, as `RECIPES`, those that have one thing in common."""

import pkgutil
from functools import lru_cache
from importlib import import_module

from detection.recipe import Recipe


@lru_cache
def recipes() -> dict[str, Recipe]:
    """Return all recipes by name, file by file.

    Raises:
        ValueError: if two recipes have the same name.
    """
    found: dict[str, Recipe] = {}
    for module in pkgutil.iter_modules(__path__, prefix=f"{__name__}."):
        for recipe in import_module(module.name).RECIPES:
            if recipe.name in found:
                raise ValueError(f"two recipes are called {recipe.name!r}, one of them in {module.name}")
            found[recipe.name] = recipe
    return found
