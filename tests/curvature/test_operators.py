"""Every operator against the dense matrix it stands for."""

import pytest
import torch
from helpers.quadratics import OnceSine, dense_hessian, network
from scipy.sparse.linalg import eigsh
from torch import nn

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.curvature import (
    Budget,
    FiniteDifferenceHessian,
    FreshHessian,
    LinearizedHessian,
    RetainedHessian,
)
from lightning_gradtools.curvature.budget import Meter
from lightning_gradtools.curvature.composition import (
    CountedProducts,
    MeanOverBatches,
    Preconditioned,
    adam_preconditioner,
)
from lightning_gradtools.curvature.gauss_newton import GaussNewton
from lightning_gradtools.curvature.hessian_spectrum import operator_spectrum
from lightning_gradtools.curvature.jacobian import singular_values
from lightning_gradtools.curvature.method import AutomaticHessian, hessian_operator
from lightning_gradtools.curvature.parameter_space import ParameterSpace


def columns(operator):
    identity = torch.eye(operator.space.numel, dtype=operator.space.dtype)
    return torch.stack([operator.matvec(row) for row in identity])


def test_an_operator_is_a_symmetric_matrix_to_torch_and_to_scipy():
    loss, net = network()
    exact = dense_hessian(loss, list(net.parameters()))
    diagonal = 1 + torch.rand(72, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    retained = RetainedHessian(loss, net.parameters())
    preconditioned = exact / diagonal.sqrt() / diagonal.sqrt()[:, None]
    vectors = torch.randn(72, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for operator, matrix in (
        (retained, exact),
        (MeanOverBatches([retained, retained]), exact),
        (CountedProducts(retained), exact),
        (Preconditioned(retained, diagonal), preconditioned),
        (AutomaticHessian([loss], list(net.parameters())), exact),
    ):
        assert operator.shape == (72, 72)
        assert operator.dtype == torch.float64
        assert operator.device.type == "cpu"
        torch.testing.assert_close(operator @ vectors, matrix @ vectors, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(operator @ vectors[:, 0], matrix @ vectors[:, 0], rtol=1e-10, atol=1e-12)
        assert (operator @ vectors[:, :0]).shape == (72, 0)
        largest = eigsh(operator.as_scipy(), k=3, which="LA", return_eigenvectors=False)
        torch.testing.assert_close(torch.from_numpy(largest), torch.linalg.eigvalsh(matrix)[-3:])
        for wrong in (vectors.T, vectors[:-1], vectors[None], vectors[0, 0]):
            with pytest.raises(ArgumentError, match=r"must be \(72,\) or \(72, k\)"):
                operator @ wrong


def test_scipy_keeps_the_precision_of_the_parameters():
    loss, net = network(torch.float32)
    operator = RetainedHessian(loss, net.parameters()).as_scipy()
    assert operator.dtype == "float32"
    assert (operator @ torch.ones(72, 2).numpy()).dtype == "float32"
    assert operator.shape == (72, 72)


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


def test_what_adam_does_not_move_has_no_curvature_in_its_metric():
    """A parameter that never had a gradient has no second moments, and takes no step; neither do strangers."""
    loss, net = network()
    unused, stranger = nn.Parameter(torch.ones(4).double()), nn.Parameter(torch.ones(2).double())
    parameters = [net[0].weight, unused, net[0].bias, stranger, net[2].weight]
    optimizer = torch.optim.Adam([p for p in parameters if p is not stranger], lr=1e-2, eps=1e-3)
    loss().backward()
    optimizer.step()
    before = [parameter.clone() for parameter in parameters]
    loss().backward()
    optimizer.step()
    moved = [not torch.equal(a, b) for a, b in zip(before, parameters, strict=True)]
    assert moved == [True, False, True, False, True]

    def whole():
        return loss() + (unused.square().sum() + stranger.sum() ** 4) * net[0].bias.sum()

    operator = RetainedHessian(whole, parameters)
    diagonal = adam_preconditioner(operator.space, optimizer)
    assert diagonal.isinf().tolist() == [
        bool(is_still) for p, is_still in zip(parameters, [0, 1, 0, 1, 0], strict=True) for _ in range(p.numel())
    ]
    metric = Preconditioned(operator, diagonal)
    moves = torch.isfinite(diagonal)
    root = diagonal[moves].rsqrt()
    block = dense_hessian(whole, parameters)[moves][:, moves] * root * root[:, None]
    matrix = columns(metric)
    torch.testing.assert_close(matrix[moves][:, moves], block, rtol=1e-10, atol=1e-12)
    assert matrix[~moves].norm() == matrix[:, ~moves].norm() == 0
    assert metric.gradient()[~moves].norm() == 0
    found = operator_spectrum(
        metric, top_k=2, rtol=1e-8, meter=Meter(metric, Budget(), 0.0, shared=False), generator=torch.Generator()
    )
    expected = torch.linalg.eigvalsh(block)
    torch.testing.assert_close(found.eigenvalues, expected[expected.abs().argsort(descending=True)][:2])


@pytest.mark.parametrize(
    "packed",
    [
        lambda moments: moments.mul(255).byte(),
        lambda moments: moments.to(torch.float8_e4m3fn),
        lambda moments: moments.reshape(-1),
        lambda moments: moments.mean(0),  # of rows alone, as Adafactor's
        lambda moments: (moments, 1.0),
    ],
    ids=["bytes", "float8", "flat", "factored", "pair"],
)
def test_moments_that_are_not_one_number_for_each_weight_are_refused_by_name(packed):
    loss, net = network()
    optimizer = torch.optim.Adam(net.parameters())
    loss().backward()
    optimizer.step()
    state = optimizer.state[net[0].weight]
    state["exp_avg_sq"] = packed(state["exp_avg_sq"])
    with pytest.raises(
        ArgumentError, match=r"optimizer=Adam: its second moments \(exp_avg_sq\) are quantised or packed"
    ):
        adam_preconditioner(RetainedHessian(loss, net.parameters()).space, optimizer)


def test_moments_in_half_precision_are_numbers():
    loss, net = network()
    optimizer = torch.optim.Adam(net.parameters(), eps=1e-3)
    loss().backward()
    optimizer.step()
    space = RetainedHessian(loss, net.parameters()).space
    exact = adam_preconditioner(space, optimizer)
    for state in optimizer.state.values():
        state["exp_avg_sq"] = state["exp_avg_sq"].bfloat16()
    torch.testing.assert_close(adam_preconditioner(space, optimizer), exact, rtol=2**-8, atol=0)


def test_a_metric_is_positive():
    loss, net = network()
    operator = RetainedHessian(loss, net.parameters())
    for wrong in (0.0, -1.0, torch.nan):
        diagonal = torch.ones(72, dtype=torch.float64)
        diagonal[3] = wrong
        with pytest.raises(ArgumentError, match="diagonal: must be positive"):
            Preconditioned(operator, diagonal)


def test_frozen_and_tied_parameters():
    loss, net = network()
    net[0].bias.requires_grad_(False)
    operator = RetainedHessian(loss, [*net.parameters(), net[0].weight])
    kept = [net[0].weight, net[2].weight]
    torch.testing.assert_close(columns(operator), dense_hessian(loss, kept), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", [RetainedHessian, FreshHessian, FiniteDifferenceHessian])
def test_sparse_gradients_have_the_hessian_of_dense_ones(kind):
    ids = torch.tensor([0, 1, 2, 1, 1, 3])  # of five: one is not seen, one several times

    def model(sparse):
        torch.manual_seed(0)
        embedding, linear = nn.Embedding(5, 3, sparse=sparse).double(), nn.Linear(3, 1).double()
        return lambda: torch.tanh(linear(embedding(ids))).square().mean(), [embedding.weight, *linear.parameters()]

    expected = dense_hessian(*model(sparse=False))
    loss, parameters = model(sparse=True)
    operator = kind(loss, parameters)
    loss().backward()
    assert parameters[0].grad.is_sparse
    vectors = torch.randn(len(expected), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(operator @ vectors, expected @ vectors, rtol=1e-6, atol=1e-6)
    loss, parameters = model(sparse=False)
    expected = torch.cat([gradient.reshape(-1) for gradient in torch.autograd.grad(loss(), parameters)])
    if kind is not FreshHessian:
        torch.testing.assert_close(operator.gradient(), expected)


def test_what_can_be_differentiated_once_is_refused_where_torch_would_leave_it_out():
    """``torch.autograd.grad`` takes the backward pass for constant: a part of the Hessian would be missing."""
    x = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = [nn.Parameter(x[:n, :m].clone()) for n, m in ((4, 3), (3, 1))]

    def outputs(sine):
        return sine(x @ weights[0]) @ weights[1]

    def loss():
        return outputs(OnceSine.apply).square().mean()

    for kind in (RetainedHessian, FreshHessian):
        with pytest.raises(RuntimeError, match="once_differentiable"):
            kind(loss, weights).matvec(torch.ones(15, dtype=torch.float64))
    with pytest.raises(RuntimeError, match="once_differentiable"):
        GaussNewton(lambda: outputs(OnceSine.apply), lambda z: z.square().mean(), weights)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        singular_values(lambda inputs: OnceSine.apply(inputs).square(), x)
    operator = hessian_operator(loss, weights)
    exact = dense_hessian(lambda: outputs(torch.sin).square().mean(), weights)
    torch.testing.assert_close(columns(operator), exact, rtol=1e-6, atol=1e-7)
    assert operator.name.startswith("finite difference (no second derivative: ")
    assert "once_differentiable" in operator.name


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
