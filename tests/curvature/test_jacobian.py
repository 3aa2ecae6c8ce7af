import pytest
import torch
from torch import nn

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.curvature.jacobian import layer_gain, singular_values


@pytest.mark.parametrize("sizes", [(12, 7), (7, 12)])
def test_singular_values_are_those_of_the_dense_jacobian(sizes):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(sizes[0], 20), nn.Tanh(), nn.Linear(20, sizes[1])).double()
    x = torch.randn(sizes[0], dtype=torch.float64)
    exact = torch.linalg.svdvals(torch.autograd.functional.jacobian(net, x))
    found, converged = singular_values(net, x, k=3, rtol=1e-8, generator=torch.Generator().manual_seed(1))
    assert converged
    torch.testing.assert_close(found, exact[:3], rtol=1e-8, atol=0)
    every, converged = singular_values(net, x, k=7, rtol=1e-8)
    assert converged
    torch.testing.assert_close(every, exact, rtol=1e-7, atol=1e-10)


def test_a_linear_map_and_its_gain():
    weight = torch.randn(6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.zeros(9, dtype=torch.float64)
    found, _ = singular_values(lambda x: weight @ x, x, k=2, rtol=1e-8)
    torch.testing.assert_close(found, torch.linalg.svdvals(weight)[:2])
    gain = layer_gain(lambda x: weight @ x, x, probes=4000)
    assert gain == pytest.approx(float(weight.norm()) / 6**0.5, rel=0.05)
    identity, converged = singular_values(lambda x: 3 * x, x, k=4)
    assert converged
    torch.testing.assert_close(identity, torch.full((4,), 3.0, dtype=torch.float64))


def test_bad_arguments_are_named():
    with pytest.raises(ArgumentError, match="k=10"):
        singular_values(lambda x: x, torch.zeros(3), k=10)
    with pytest.raises(ArgumentError, match="does not depend"):
        singular_values(lambda x: torch.zeros(2), torch.zeros(3))
