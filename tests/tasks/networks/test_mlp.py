import pytest
import torch
from torch import nn

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.tasks import MLP, ResidualMLP


def count(network):
    return sum(p.numel() for p in network.parameters())


def test_depth_zero_is_linear():
    network = MLP(5, 3, depth=0)
    x, y = torch.randn(2, 7, 5)
    torch.testing.assert_close(
        network(x + 2 * y), network(x) + 2 * network(y) - 2 * network(torch.zeros(7, 5)), atol=1e-5, rtol=1e-5
    )
    assert count(network) == 5 * 3 + 3


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_parameter_count(depth):
    inputs, width, outputs = 5, 11, 3
    hidden = (inputs + 1) * width + (depth - 1) * (width + 1) * width
    assert count(MLP(inputs, outputs, width, depth)) == hidden + (width + 1) * outputs
    # Batch norm: its gain and bias stand in for the layer's bias.
    normed = count(MLP(inputs, outputs, width, depth, norm="batch"))
    assert normed == hidden + (width + 1) * outputs + depth * width


def test_the_layers_are_composed_as_written():
    network = MLP(4, 2, width=6, depth=2, activation="tanh", norm="layer")
    x = torch.randn(3, 4)
    h = x
    for layer in network.layers:
        h = torch.tanh(nn.functional.layer_norm(layer.linear(h), (6,)))
    torch.testing.assert_close(network(x), network.output(h))


def test_parameter_names():
    names = [name for name, _ in MLP(4, 2, depth=1, norm="layer").named_parameters()]
    assert names == [
        *("layers.0.linear.weight", "layers.0.linear.bias", "layers.0.norm.weight", "layers.0.norm.bias"),
        *("output.weight", "output.bias"),
    ]


@pytest.mark.parametrize("make", [MLP, ResidualMLP])
def test_images_are_flattened(make):
    network = make(64, 10)
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(network(x), network(x.flatten(1)))
    network.check_input((1, 8, 8))
    with pytest.raises(ArgumentError, match=r"^in_features=64: the data has 10 features"):
        network.check_input((10,))


@pytest.mark.parametrize("make", [MLP, ResidualMLP])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"width": 0}, "width=0: must be an integer >= 1"),
        ({"depth": -1}, "depth=-1: must be an integer >= 0"),
        ({"norm": "bacth"}, "norm='bacth': must be one of none, batch, layer .did you mean 'batch'"),
        ({"activation": "x"}, "activation='x': must be one of"),
        ({"in_features": 0}, "in_features=0: must be"),
        ({"out_features": 2.0}, "out_features=2.0: must be"),
    ],
)
def test_bad_arguments(make, bad, message):
    with pytest.raises(ArgumentError, match=f"^{message}"):
        make(**{"in_features": 4, "out_features": 2, "depth": 1, **bad})
