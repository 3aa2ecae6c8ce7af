import pytest
import torch

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.tasks import CNN


def test_parameter_count():
    network = CNN(1, 10, channels=(4, 6))
    assert sum(p.numel() for p in network.parameters()) == 9 * (1 * 4 + 4 * 6) + 2 * (4 + 6) + 6 * 10 + 10


def test_pooling_halves_the_image_between_layers_and_the_output_takes_the_mean():
    network = CNN(2, 3, channels=(4, 5, 6)).eval()
    shapes = []
    for layer in network.layers:
        layer.register_forward_hook(lambda layer, inputs, output: shapes.append(tuple(output.shape)))
    last = []
    network.layers[-1].register_forward_hook(lambda layer, inputs, output: last.append(output))
    y = network(torch.randn(7, 2, 8, 12))
    assert shapes == [(7, 4, 8, 12), (7, 5, 4, 6), (7, 6, 2, 3)]
    torch.testing.assert_close(y, network.output(last[0].flatten(2).mean(-1)))


def test_input_that_does_not_fit():
    network = CNN(1, 10)
    network.check_input((1, 4, 4))
    with pytest.raises(ArgumentError, match=r"^in_channels=1: the data's samples have shape \(64,\)"):
        network.check_input((64,))
    with pytest.raises(ArgumentError, match=r"^channels: 3 layers need images at least 4 pixels"):
        network.check_input((1, 3, 8))
    network(torch.randn(2, 1, 4, 4))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"channels": ()}, r"channels=\(\): must list each layer's"),
        ({"channels": 16}, "channels=16: must list each layer's"),
        ({"channels": (8, 0)}, "channels=0: must be an integer >= 1"),
        ({"init": "x"}, "init='x': must be one of"),
    ],
)
def test_bad_arguments(bad, message):
    with pytest.raises(ArgumentError, match=f"^{message}"):
        CNN(**bad)
