"""The recipes of scripts/bench_detection.py, which stand in many files and are compared with one another."""

import sys
from importlib import import_module
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def detection():
    sys.path.insert(0, str(SCRIPTS))
    yield import_module("detection.recipes")
    sys.path.remove(str(SCRIPTS))


def test_the_twin_of_each_is_a_healthy_one_that_others_are_compared_with(detection):
    known = detection.recipes()
    for recipe in known.values():
        twin = known[recipe.twin]
        assert twin.twin == twin.name, recipe.name
        assert not twin.fault, recipe.name


def test_each_belongs_to_a_half_and_the_fresh_ones_are_healthy(detection):
    halves = import_module("detection.recipe").HALVES
    known = detection.recipes().values()
    assert {recipe.half for recipe in known} == set(halves)
    assert not [recipe.name for recipe in known if recipe.half == "fresh" and recipe.fault]


def test_its_file_says_whether_it_is_sick(detection):
    names = {path.stem for path in Path(detection.__file__).parent.glob("*.py")} - {"__init__"}
    for name in names:
        for recipe in import_module(f"detection.recipes.{name}").RECIPES:
            assert bool(recipe.fault) == name.startswith("sick_"), recipe.name


def test_two_of_one_name_are_refused(detection, monkeypatch):
    frozen = import_module("detection.recipes.healthy_frozen")
    monkeypatch.setattr(frozen, "RECIPES", [*frozen.RECIPES, frozen.RECIPES[0]])
    detection.recipes.cache_clear()
    with pytest.raises(ValueError, match=f"two recipes are called '{frozen.RECIPES[0].name}'"):
        detection.recipes()
