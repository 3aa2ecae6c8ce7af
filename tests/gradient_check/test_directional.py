import math

import pytest
import torch

from lightning_gradtools.gradient_check import check_direction


class Off(torch.autograd.Function):
    """The identity, with a gradient that is off by a factor."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.factor, None


def leaf(*shape, seed=0, requires_grad=True):
    torch.manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64).requires_grad_(requires_grad)


@pytest.mark.parametrize("seed", range(5))
def test_a_right_gradient_has_a_remainder_of_order_two(seed):
    x, y = leaf(20, seed=seed), leaf(30, 3, seed=seed + 100)
    check = check_direction(lambda: x.exp().sum() + y.cosh().sum(), [x, y])  # convex: curved in every direction
    assert check.passed
    assert check.relative_error < 1e-4
    assert check.order == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("factor", [-1.0, 0.0, 0.99, 1.001, 2.0])
def test_a_wrong_gradient_fails_with_a_remainder_of_order_one(seed, factor):
    x = leaf(30, seed=seed)
    check = check_direction(lambda: Off.apply(x, factor).tanh().sum(), [x])
    assert not check.passed
    assert check.relative_error == pytest.approx(abs(1 - factor) / max(1, abs(factor)), rel=0.2)
    if abs(1 - factor) > 0.5:
        assert check.order == pytest.approx(1, abs=0.1)


def test_kinks_do_not_fail_a_right_gradient():
    x, weight = leaf(64, 100), leaf(100, 200, seed=1)
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        assert check_direction(lambda: (x @ weight).relu().sum(), [x, weight], generator=generator).passed


def test_a_linear_function_has_no_remainder():
    x = leaf(10)
    check = check_direction(lambda: 3 * x.sum(), [x])
    assert check.passed
    assert math.isnan(check.order)


def test_a_gradient_of_zero_is_right_where_the_function_is_flat_and_wrong_where_not():
    x = leaf(10)
    assert check_direction(lambda: (x * 0).sum() + 1, [x]).passed
    assert not check_direction(lambda: Off.apply(x, 0.0).square().sum(), [x]).passed


def test_float32_inside_is_held_to_what_float32_can_do():
    x = leaf(50)
    right = check_direction(lambda: x.float().sin().sum().double(), [x])
    assert (right.passed, right.tolerance) == (True, 0.05)
    assert not check_direction(lambda: Off.apply(x, 1.5).float().sin().sum().double(), [x]).passed


def test_variables_are_restored_to_the_last_bit_even_if_the_function_fails():
    x = leaf(10)
    before, calls = x.detach().clone(), []

    def fails_later():
        calls.append(1)
        if len(calls) > 2:
            raise RuntimeError("later")
        return x.square().sum()

    check_direction(lambda: x.square().sum(), [x])
    assert torch.equal(x, before)
    with pytest.raises(RuntimeError, match="later"):
        check_direction(fails_later, [x])
    assert torch.equal(x, before)


def test_of_a_function_that_clips_its_variables_nothing_can_be_said():
    x = torch.full((5,), 0.1, dtype=torch.float64, requires_grad=True)

    def clipped():
        x.data.clamp_(-0.1, 0.1)
        return x.square().sum()

    check = check_direction(clipped, [x])
    assert math.isnan(check.relative_error)
    assert check.passed
    assert torch.equal(x, torch.full_like(x, 0.1))
