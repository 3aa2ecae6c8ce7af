"""The recipes of scripts/bench_detection.py, which stand in many files and are compared with one another."""

import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch

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


def test_each_belongs_to_a_half_and_the_fresh_and_the_fourth_ones_are_healthy(detection):
    halves = import_module("detection.recipe").HALVES
    known = detection.recipes().values()
    assert {recipe.half for recipe in known} == set(halves)
    assert not [recipe.name for recipe in known if recipe.half in ("fresh", "fourth") and recipe.fault]


def test_the_fourth_half_has_at_least_sixty_hard_recipes(detection):
    fourth = [recipe for recipe in detection.recipes().values() if recipe.half == "fourth"]
    assert len(fourth) >= 60
    assert all(recipe.hard for recipe in fourth)


@pytest.mark.parametrize(
    "name",
    ["elbo_with_warmup", "wasserstein_clipped", "own_latent", "packed_gru", "after_one_step", "item_preferences"],
)
def test_a_recipe_of_the_fourth_half_trains_and_is_measured_without_a_detector(detection, name):
    recipe = replace(detection.recipes()[name], steps=6)
    record = import_module("detection.runs").recorded(recipe, seed=0)
    assert record["losses"]
    assert record["nonfinite_step"] is None
    assert [moment["step"] for moment in record["measurements"]][:2] in ([0, 1], [0, 2], [0, 3])
    assert record["constant_loss"] > 0


def test_a_method_is_trained_by_one_loss_and_judged_by_another(detection):
    methods, data = import_module("detection.methods"), import_module("detection.data")
    optimizers, dense = import_module("detection.optimizers"), import_module("detection.networks.dense").dense
    recipe = methods.taught(
        "halved",
        lambda: dense([4, 3]),
        optimizers.sgd(),
        lambda net, x, y, step: net(x).square().mean() / 2,
        lambda net, x, y: net(x).square().mean(),
        data=data.iris,
    )
    module, given = recipe.module(), recipe.data()
    objective, trained, output = module.measured(module.net, given.inputs, given.targets)
    assert torch.equal(objective, 2 * trained)
    assert output is None
    assert (recipe.twin, recipe.half, recipe.hard) == ("halved", "fourth", True)


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
