"""Patches stack, come off in any order, and are unknown to a copy or a pickle of what they are on."""

import copy
import itertools
import pickle

import pytest
import torch
from helpers.runs import Regression
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn

from lightning_gradtools._lightning.module import (
    is_compiled,
    parameter_names,
    patched,
    plain_modules,
    plain_name,
    without_patches,
)

NAME = "configure_gradient_clipping"


class Owner(LightningModule):
    def greet(self, name):
        return [f"class {name}"]


def saying(word):
    return lambda below, name: [word, *below(name)]


def test_a_patch_calls_what_it_replaces_and_is_gone_afterwards():
    owner = Owner()
    patch = patched(owner, "greet", saying("patch"))
    assert owner.greet("a") == ["patch", "class a"]
    patch.remove()
    assert "greet" not in vars(owner)
    patch.remove()  # again is no error
    assert owner.greet("a") == ["class a"]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_patches_stack_and_come_off_in_any_order(order):
    owner = Owner()
    patches = [patched(owner, "greet", saying(str(i))) for i in range(3)]
    left = {0, 1, 2}
    for i in order:
        assert owner.greet("a") == [*map(str, sorted(left, reverse=True)), "class a"]
        patches[i].remove()
        left.remove(i)
    assert "greet" not in vars(owner)


def test_the_users_own_stays_below_and_is_put_back():
    owner = Owner()
    owner.greet = own = lambda name: [f"own {name}"]
    first, second = patched(owner, "greet", saying("1")), patched(owner, "greet", saying("2"))
    assert owner.greet("a") == ["2", "1", "own a"]
    first.remove()
    second.remove()
    assert owner.greet is own


def test_what_the_user_puts_above_later_is_left_alone():
    owner = Owner()
    patch = patched(owner, "greet", saying("1"))
    owner.greet = own = lambda name: [f"own {name}"]
    patch.remove()
    assert owner.greet is own


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda owner: pickle.loads(pickle.dumps(owner))])
def test_a_copy_has_the_method_of_its_class(copied):
    owner = Regression()
    patches = [patched(owner, NAME, lambda below, *args, **kwargs: None) for _ in range(2)]
    twin = copied(owner)
    assert getattr(twin, NAME).__func__ is LightningModule.configure_gradient_clipping
    assert getattr(twin, NAME).__self__ is twin
    for patch in patches:
        patch.remove()
    assert NAME not in vars(owner)


def of_the_user(optimizer, *_):
    return "own"


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda owner: pickle.loads(pickle.dumps(owner))])
def test_a_copy_has_the_users_own(copied):
    owner = Regression()
    setattr(owner, NAME, of_the_user)
    patched(owner, NAME, lambda below, *args: "patch")
    assert getattr(copied(owner), NAME)(None) == "own"
    assert getattr(owner, NAME)(None) == "patch"


def test_lightning_does_not_take_a_patch_for_a_hook_of_the_modules():
    owner = Regression()
    patched(owner, NAME, lambda below, *args: None)
    assert not is_overridden(NAME, owner)
    setattr(owner, NAME, of_the_user)
    patched(owner, NAME, lambda below, *args: None)
    assert is_overridden(NAME, owner)


def test_for_a_probe_patches_are_off_and_then_on_again():
    owner = Owner()
    patched(owner, "greet", saying("1"))
    with without_patches(owner):
        assert owner.greet("a") == ["class a"]
    assert owner.greet("a") == ["1", "class a"]


def test_names_are_those_without_wrappers():
    assert plain_name("net._orig_mod.0._checkpoint_wrapped_module.weight") == "net.0.weight"
    net = nn.Sequential(torch.compile(nn.Linear(2, 2), backend="eager"), nn.ReLU())
    assert set(parameter_names(net).values()) == {"0.weight", "0.bias"}
    assert isinstance(plain_modules(net)["0"], nn.Linear)
    assert is_compiled(net)
    assert not is_compiled(nn.Linear(2, 2))
