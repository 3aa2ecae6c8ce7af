import math

import pytest
import torch

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.gradients.adaptive_clipping import adaptive_clip_


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def parameter(*shape, weights=1.0, gradients=1.0):
    made = torch.nn.Parameter(weights * torch.randn(shape))
    made.grad = gradients * torch.randn(shape)
    return made


def by_loops(weight, gradient, ratio, floor):
    """The paper's rule, a unit at a time in float64."""
    weight, gradient = weight.detach().double(), gradient.double().clone()
    units = [(weight, gradient)] if weight.ndim < 2 else list(zip(weight, gradient, strict=True))
    for w, g in units:
        limit = ratio * max(float(w.norm()), floor)
        if float(g.norm()) > limit:
            g *= limit / float(g.norm())
    return gradient


@pytest.mark.parametrize("shape", [(), (5,), (6, 4), (8, 3, 3, 3)])
@pytest.mark.parametrize("size", [1e-4, 1e-2, 1.0])
def test_equals_the_rule_unit_by_unit(shape, size):
    p = parameter(*shape, gradients=size)
    expected = by_loops(p, p.grad, 0.01, 1e-3)
    smallest = adaptive_clip_([p], 0.01)
    torch.testing.assert_close(p.grad.double(), expected, rtol=1e-5, atol=1e-12)
    assert (float(smallest) < 1) == (size == 1.0 or (size == 1e-2 and float(smallest) < 1))


def test_a_weight_that_starts_at_zero_is_not_frozen():
    p = parameter(4, weights=0.0)
    adaptive_clip_([p], 0.01, min_weight_norm=1e-3)
    assert p.grad.norm().item() == pytest.approx(1e-5, rel=1e-5)


def test_a_zero_gradient_stays_zero_and_small_ones_stay_as_they_are():
    zero, small = parameter(4, 4, gradients=0.0), parameter(4, 4, gradients=1e-9)
    before = small.grad.clone()
    assert float(adaptive_clip_([zero, small], 0.01)) == 1
    assert torch.equal(zero.grad, torch.zeros(4, 4))
    assert torch.equal(small.grad, before)


def test_rows_of_a_sparse_gradient_are_clipped_as_those_of_a_dense_one():
    table = torch.nn.Embedding(6, 3, sparse=True)
    table(torch.tensor([1, 1, 4])).mul(torch.randn(3, 3)).sum().backward()
    expected = by_loops(table.weight, table.weight.grad.to_dense(), 0.01, 1e-3)
    assert float(adaptive_clip_([table.weight], 0.01)) < 1
    torch.testing.assert_close(table.weight.grad.to_dense().double(), expected, rtol=1e-5, atol=1e-12)


def test_half_precision_and_none():
    half, none = parameter(8, 8), torch.nn.Parameter(torch.ones(2))
    half.data, half.grad = half.data.bfloat16(), None
    half.grad = torch.randn(8, 8).bfloat16()
    expected = by_loops(half, half.grad, 0.01, 1e-3)
    adaptive_clip_([half, none], 0.01)
    torch.testing.assert_close(half.grad.double(), expected, rtol=1e-2, atol=0)
    assert none.grad is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((math.nan,), "ratio=nan: must be a finite number >= 0"), ((0.01, -1.0), "min_weight_norm=-1.0: must be")],
)
def test_what_is_no_ratio_is_refused_and_changes_nothing(arguments, message):
    p = parameter(3, 3)
    before = p.grad.clone()
    with pytest.raises(ArgumentError, match=message):
        adaptive_clip_([p], *arguments)
    assert torch.equal(p.grad, before)
