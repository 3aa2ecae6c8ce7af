import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.tasks.networks.activation import ACTIVATIONS, make_activation


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "identity"])
def test_each_name_is_the_function_torch_calls_by_it(name):
    x = torch.linspace(-3, 3, 31)
    function = getattr(F, name, None) or getattr(torch, name)
    torch.testing.assert_close(make_activation(name)(x), function(x))


def test_identity_and_a_fresh_module_each_time():
    x = torch.linspace(-3, 3, 31)
    assert torch.equal(make_activation("identity")(x), x)
    first, second = make_activation("relu"), make_activation("relu")
    assert first is not second
    assert isinstance(first, nn.Module)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ArgumentError, match=r"^activation='rleu': must be one of relu, .*did you mean 'relu'"):
        make_activation("rleu")
