"""Every operator against the dense matrix it stands for."""

import pytest
import torch
from quadratics import dense_hessian, network
from torch import nn

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.curvature import FiniteDifferenceHessian, FreshHessian, LinearizedHessian, RetainedHessian
from lightning_gradtools.curvature.composition import MeanOverBatches, Preconditioned, adam_preconditioner
from lightning_gradtools.curvature.gauss_newton import GaussNewton
from lightning_gradtools.curvature.parameter_space import ParameterSpace


def columns(operator):
    identity = torch.eye(operator.space.numel, dtype=operator.space.dtype)
    return torch.stack([operator.matvec(row) for row in identity])


@pytest.mark.parametrize("kind", [RetainedHessian, FreshHessian])
def test_double_backward_is_the_dense_hessian(kind):
    loss, net = network()
    operator = kind(loss, net.parameters())
    torch.testing.assert_close(columns(operator), dense_hessian(loss, list(net.parameters())), rtol=1e-10, atol=1e-12)


# torch 2.13's own linearize
@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_linearize_is_the_dense_hessian():
    loss, net = network()
    operator = LinearizedHessian(loss, net.parameters())
    torch.testing.assert_close(columns(operator), dense_hessian(loss, list(net.parameters())), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(operator.gradient(), RetainedHessian(loss, net.parameters()).gradient())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 2e-3)])
@pytest.mark.parametrize("richardson", [False, True])
def test_finite_differences_find_their_step_in_every_direction(dtype, tolerance, richardson):
    exact, net64 = network()
    values, vectors = torch.linalg.eigh(dense_hessian(exact, list(net64.parameters())))
    loss, net = network(dtype)
    before = [parameter.clone() for parameter in net.parameters()]
    operator = FiniteDifferenceHessian(loss, net.parameters(), richardson=richardson)
    for i in (0, -1, -2, 20):
        direction = 3 * vectors[:, i].to(dtype)
        error = ((operator @ direction).double() - 3 * values[i] * vectors[:, i]).norm()
        # of the product, where there is one that rounding does not drown
        assert error <= 3 * tolerance * max(abs(values[i]), 0.01 * values[-1])
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in net.parameters())
    assert 0 <= operator.error < tolerance
    assert operator.matvec(torch.zeros(operator.space.numel, dtype=dtype)).norm() == 0


def test_finite_differences_restore_parameters_when_the_loss_fails():
    loss, net = network()
    before = [parameter.clone() for parameter in net.parameters()]
    calls = []

    def failing():
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return loss()

    operator = FiniteDifferenceHessian(failing, net.parameters())
    with pytest.raises(KeyboardInterrupt):
        operator.matvec(torch.ones(operator.space.numel, dtype=torch.float64))
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_gauss_newton_is_the_hessian_of_a_linear_model_and_positive_for_any():
    torch.manual_seed(0)
    linear, x, y = nn.Linear(4, 3).double(), torch.randn(9, 4).double(), torch.randint(3, (9,))
    cross_entropy = nn.CrossEntropyLoss()
    gn = GaussNewton(lambda: linear(x), lambda z: cross_entropy(z, y), linear.parameters())
    hessian = dense_hessian(lambda: cross_entropy(linear(x), y), list(linear.parameters()))
    torch.testing.assert_close(columns(gn), hessian)
    deep = nn.Sequential(linear, nn.Tanh(), nn.Linear(3, 3).double())
    gn = GaussNewton(lambda: deep(x), lambda z: cross_entropy(z, y), deep.parameters())
    assert torch.linalg.eigvalsh(columns(gn))[0] > -1e-12
    assert torch.linalg.eigvalsh(dense_hessian(lambda: cross_entropy(deep(x), y), list(deep.parameters())))[0] < -1e-4
    torch.testing.assert_close(
        gn.gradient(), RetainedHessian(lambda: cross_entropy(deep(x), y), deep.parameters()).gradient()
    )


def test_the_mean_over_batches_is_the_hessian_of_the_mean_loss():
    (one, net), x = network(), torch.randn(7, 5).double()

    def two():
        return net(x).square().sum()

    operator = MeanOverBatches([RetainedHessian(loss, net.parameters()) for loss in (one, two)])
    expected = dense_hessian(lambda: (one() + two()) / 2, list(net.parameters()))
    torch.testing.assert_close(columns(operator), expected, rtol=1e-10, atol=1e-12)
    with pytest.raises(ArgumentError, match="operators"):
        MeanOverBatches([])


@pytest.mark.parametrize("optimizer_type", [torch.optim.Adam, torch.optim.AdamW])
def test_the_preconditioned_hessian_has_the_eigenvalues_of_adams_step(optimizer_type):
    loss, net = network()
    optimizer = optimizer_type(net.parameters(), lr=1e-2, eps=1e-3)
    operator = RetainedHessian(loss, net.parameters())
    with pytest.raises(ArgumentError, match="exp_avg_sq"):
        adam_preconditioner(operator.space, optimizer)
    squares, weights = 0.0, 0.0
    for _ in range(3):
        optimizer.zero_grad()
        loss().backward()
        flat = torch.cat([parameter.grad.reshape(-1) for parameter in net.parameters()])
        squares, weights = 0.999 * squares + 0.001 * flat**2, 0.999 * weights + 0.001
        optimizer.step()
    diagonal = (squares / weights).sqrt() + 1e-3
    operator = RetainedHessian(loss, net.parameters())
    torch.testing.assert_close(adam_preconditioner(operator.space, optimizer), diagonal)
    matrix = columns(Preconditioned(operator, diagonal))
    torch.testing.assert_close(matrix, matrix.T)
    unsymmetric = dense_hessian(loss, list(net.parameters())) / diagonal[:, None]
    expected = torch.linalg.eigvals(unsymmetric).real.sort().values
    torch.testing.assert_close(torch.linalg.eigvalsh(matrix), expected)


def test_frozen_and_tied_parameters():
    loss, net = network()
    net[0].bias.requires_grad_(False)
    operator = RetainedHessian(loss, [*net.parameters(), net[0].weight])
    kept = [net[0].weight, net[2].weight]
    torch.testing.assert_close(columns(operator), dense_hessian(loss, kept), rtol=1e-10, atol=1e-12)


def test_parameters_that_the_loss_is_linear_in_or_does_not_see_and_parameters_of_two_kinds():
    loss, net = network()
    linear, unseen = nn.Parameter(torch.ones(2).double()), nn.Parameter(torch.ones(3).double())
    weights = list(net.parameters())
    operator = RetainedHessian(lambda: loss() + linear.sum(), [linear, *weights, unseen])
    expected = torch.block_diag(torch.zeros(2, 2).double(), dense_hessian(loss, weights), torch.zeros(3, 3).double())
    torch.testing.assert_close(columns(operator), expected, rtol=1e-10, atol=1e-12)
    assert operator.gradient()[:2].tolist() == [1, 1]
    flat = RetainedHessian(lambda: linear.sum(), [linear])
    assert columns(flat).abs().max() == 0
    narrow = nn.Parameter(torch.ones(2))
    mixed = RetainedHessian(lambda: loss() + narrow.square().sum().double(), [*weights, narrow])
    expected = torch.block_diag(dense_hessian(loss, weights), 2 * torch.eye(2).double())
    torch.testing.assert_close(columns(mixed), expected, rtol=1e-10, atol=1e-12)


def test_what_is_no_space_or_no_loss_is_named():
    with pytest.raises(ArgumentError, match="params: none requires"):
        ParameterSpace([torch.zeros(2)])
    loss, net = network()
    for wrong in (lambda: loss().item(), lambda: loss().detach(), lambda: torch.ones(2, requires_grad=True)):
        with pytest.raises(ArgumentError, match="must be a scalar tensor"):
            RetainedHessian(wrong, net.parameters())


def test_random_vectors_follow_their_generator():
    space = ParameterSpace(network()[1].parameters())
    draws = [space.random(torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert set(space.random(signs=True).tolist()) == {-1.0, 1.0}
