"""Iterations whose later products are differences of two gradients."""

import copy

import pytest
import torch
from helpers.quadratics import dense_hessian, network, quadratic
from sklearn.datasets import load_digits
from torch import nn

from lightning_gradtools.curvature import RetainedHessian, hessian_spectrum
from lightning_gradtools.curvature.budget import Budget, Meter
from lightning_gradtools.curvature.composition import Preconditioned
from lightning_gradtools.curvature.hessian_spectrum import operator_spectrum
from lightning_gradtools.curvature.lanczos import Lanczos
from lightning_gradtools.curvature.method import AutomaticHessian
from lightning_gradtools.curvature.operator import WrappedOperator, is_smooth


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def classifier(activation, seed=0, dtype=torch.float32):
    """Return the loss of a network of 1,066 parameters on digits, and the network, in the given precision."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(64, 12), activation(), nn.Linear(12, 12), activation(), nn.Linear(12, 10)).to(dtype)
    images, labels = load_digits(return_X_y=True)
    chosen = torch.randperm(len(images))[:200]
    x, y = torch.tensor(images, dtype=dtype)[chosen] / 16, torch.tensor(labels)[chosen]
    return lambda: nn.functional.cross_entropy(net(x), y), net


def spectrum(operator, top_k=5, rtol=1e-3, seed=0, budget=None):
    meter = Meter(operator, Budget(gradients=budget), 0.0, shared=False)
    return operator_spectrum(
        operator, top_k=top_k, rtol=rtol, meter=meter, generator=generator(seed), keep_vectors=True
    )


@pytest.mark.parametrize("activation", [nn.Tanh, nn.GELU, pytest.param(nn.Sigmoid, marks=pytest.mark.slow)])
@pytest.mark.parametrize("preconditioned", [False, True])
def test_values_of_a_smooth_network_cost_fewer_gradients_and_keep_their_bounds(activation, preconditioned):
    cost = {"auto": 0.0, "retained": 0.0}
    for seed in range(2):
        loss, net = classifier(activation, seed)
        wide, twin = classifier(activation, seed, torch.float64)
        for parameter, other in zip(twin.parameters(), net.parameters(), strict=True):
            parameter.data.copy_(other)
        matrix = dense_hessian(wide, list(twin.parameters()))
        metric = torch.ones(len(matrix))
        if preconditioned:
            metric = 0.1 + torch.rand(len(matrix), generator=generator(seed))
            matrix = matrix / metric.double().sqrt() / metric.double().sqrt()[:, None]
        before = copy.deepcopy(net.state_dict())
        values = torch.linalg.eigvalsh(matrix)
        expected = values[values.abs().argsort(descending=True)][:5]
        for method in cost:
            operator = (
                AutomaticHessian([loss], list(net.parameters()))
                if method == "auto"
                else RetainedHessian(loss, net.parameters())
            )
            found = spectrum(Preconditioned(operator, metric))
            assert found.converged
            assert ("one-sided" in found.method) == (method == "auto")
            assert ((found.eigenvalues - expected).abs() <= found.bounds).all()
            assert ((found.eigenvalues - expected).abs() <= 1e-3 * expected.abs()).all()
            x = found.eigenvectors.double()
            residuals = (x @ matrix - found.eigenvalues[:, None] * x).norm(dim=1)
            assert (residuals <= found.residuals + 1e-5 * values.abs().max()).all()
            cost[method] += found.gradients_spent
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
        assert all(parameter.grad is None for parameter in net.parameters())
    assert cost["auto"] < 0.85 * cost["retained"]


def test_a_loss_with_kinks_is_not_moved():
    """Where a unit switches, a gradient jumps, and a difference would take that for curvature."""
    loss, net = classifier(nn.ReLU)
    calls = []
    found = hessian_spectrum(lambda: calls.append(1) or loss(), net.parameters(), generator=generator())
    assert len(calls) == 1
    assert found.method == "retained graph (a second derivative exists)"


@pytest.mark.parametrize(
    ("function", "smooth"),
    [
        (torch.relu, False),
        (nn.functional.leaky_relu, False),
        (nn.functional.hardtanh, False),
        (nn.functional.hardswish, False),
        (torch.abs, False),
        (lambda x: x.clamp(min=0), False),
        (lambda x: x.max(dim=1).values, False),
        (lambda x: nn.functional.max_pool1d(x, 2), False),
        (lambda x: nn.functional.adaptive_max_pool1d(x, 2), False),
        (lambda x: nn.functional.huber_loss(x, torch.zeros_like(x)), False),
        (lambda x: nn.functional.smooth_l1_loss(x, torch.zeros_like(x)), False),
        (lambda x: nn.functional.l1_loss(x, torch.zeros_like(x)), False),
        (torch.tanh, True),
        (nn.functional.gelu, True),
        (nn.functional.silu, True),
        (nn.functional.softplus, True),
        (lambda x: torch.softmax(x, 1), True),
        (lambda x: torch.log_softmax(x, 1), True),
        (lambda x: torch.logsumexp(x, 1), True),
        (lambda x: nn.functional.layer_norm(x, (4,)), True),
        (lambda x: nn.functional.scaled_dot_product_attention(x, x, x), True),
    ],
)
def test_operations_with_a_kink_are_known_in_both_graphs(function, smooth):
    weight = torch.randn(4, 4, generator=generator(), requires_grad=True)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        loss = function(weight).square().sum()
    assert is_smooth([loss]) == smooth
    assert is_smooth(torch.autograd.grad(loss, weight, create_graph=True)) == smooth


def test_what_a_compiled_graph_does_cannot_be_known():
    _, net = classifier(nn.Tanh)
    assert not is_smooth([torch.compile(net, backend="aot_eager")(torch.ones(3, 64)).sum()])


class Misled(WrappedOperator):
    """Differences that are right at first, and then are not those of a symmetric operator."""

    def __init__(self, operator, wrong):
        super().__init__(operator)
        self.wrong, self.differences = wrong, 0

    def one_sided(self, vector, step):
        self.differences += 1
        product, by_itself = self.matvec(vector), torch.randn(len(vector), generator=generator(self.differences))
        size = 1e-9 if self.differences == 1 else self.wrong
        return product + size * product.norm() * by_itself.double() / by_itself.norm()


@pytest.mark.parametrize("wrong", [0.03, 0.3])
def test_where_errors_turn_out_too_large_exact_products_decide(wrong):
    values = [10.0, 9.0, 8.0, 7.0, 6.0, *torch.linspace(-3, 3, 55).tolist()]
    loss, parameters, _ = quadratic(values, seed=3)
    operator = Misled(RetainedHessian(loss, parameters), wrong)
    found = spectrum(operator)
    assert operator.differences > 2
    assert found.converged
    expected = torch.tensor(values[:5], dtype=torch.float64)
    torch.testing.assert_close(found.eigenvalues, expected, rtol=1e-5, atol=0)
    assert found.products > operator.differences + 5


def test_a_budget_that_ends_among_the_exact_products_loses_nothing_found_before():
    values = [10.0, 9.0, 8.0, 7.0, 6.0, *torch.linspace(-3, 3, 55).tolist()]
    expected = torch.tensor(values[:5], dtype=torch.float64)
    cost = []
    for budget in (None, *range(20, 100, 2)):
        loss, parameters, _ = quadratic(values, seed=3)
        found = spectrum(Misled(RetainedHessian(loss, parameters), 0.03), budget=budget)
        cost.append(float((found.eigenvalues - expected).abs().max()) if len(found.eigenvalues) == 5 else torch.inf)
    unlimited, *limited = cost
    near = next(i for i, error in enumerate(limited) if error < 0.1)
    assert max(limited[near:]) < 0.3
    assert limited[-1] <= 1.01 * unlimited + 1e-9


def test_exact_products_correct_relaxed_ones():
    """What is left of an error along earlier vectors is none where those have exact products."""
    loss, parameters, matrix = quadratic(torch.linspace(-3, 2, 40).tolist())
    operator, made = RetainedHessian(loss, parameters), []

    def relaxed(vector):
        made.append(vector)
        product = operator.matvec(vector)
        if len(made) <= 4:
            return product, 0.0
        return product + 0.1 * lanczos.basis()[:4].sum(0), 1e-3

    lanczos = Lanczos(operator, torch.ones(40, dtype=torch.float64), max_basis=20, relaxed=relaxed)
    for _ in range(10):
        lanczos.step()
    basis = lanczos.basis()
    expected = torch.linalg.eigvalsh(basis @ matrix @ basis.T)
    torch.testing.assert_close(lanczos.ritz_pairs().values.sort().values, expected, rtol=1e-10, atol=1e-10)
    # the error that was seen, 0.2 in each of six products, counts and not the 1e-3 that was told
    assert lanczos.noise == pytest.approx(0.2 * 6**0.5, rel=1e-6)


def test_errors_are_not_forgotten_where_the_basis_restarts():
    """Most of an error lies outside the basis, where nothing but the estimate knows of it."""
    loss, parameters, matrix = quadratic([3.0, 2.8, *torch.linspace(-1, 1, 398).tolist()])
    operator, draw = RetainedHessian(loss, parameters), generator()

    def relaxed(vector):
        error = torch.randn(400, generator=draw, dtype=torch.float64)
        return operator.matvec(vector) + 0.01 * error / error.norm(), 0.01

    lanczos = Lanczos(operator, torch.ones(400, dtype=torch.float64), max_basis=12, relaxed=relaxed)
    for _ in range(40):
        lanczos.step()
    pairs = lanczos.ritz_pairs()
    x = lanczos.vectors(pairs.coefficients[:, :2])
    residuals = (x @ matrix - pairs.values[:2, None] * x).norm(dim=1)
    assert (residuals > 0.005).all()
    assert (residuals <= 1.5 * pairs.residuals[:2]).all()


def test_an_error_estimate_is_at_least_what_is_seen_of_errors_in_the_basis():
    """Their square over a gap would say too little: errors of products move Ritz values in proportion."""
    loss, parameters, matrix = quadratic([100.0, *torch.linspace(-1, 1, 49).tolist()])
    start = torch.linalg.eigh(matrix).eigenvectors[:, -1] + 0.1
    noise = torch.randn(50, 50, generator=generator(), dtype=torch.float64) / 50**0.5
    operator = RetainedHessian(loss, parameters)
    lanczos = Lanczos(operator, start, max_basis=20, relaxed=lambda v: (operator.matvec(v) + noise @ v, 1e-12))
    for _ in range(12):
        lanczos.step()
    pairs = lanczos.ritz_pairs()
    assert 0 < float((pairs.values[0] - 100).abs()) < 3 * float(pairs.errors[0])


def test_a_tolerance_that_rounding_does_not_allow_tries_no_difference():
    loss, net = network(torch.float32)
    found = hessian_spectrum(loss, net.parameters(), rtol=1e-4, generator=generator())
    assert found.gradients_spent == 1 + 2 * found.products


def test_near_a_minimum_products_stay_exact():
    loss, net = classifier(nn.Tanh)
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=400, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)
    optimizer.zero_grad()
    assert float(loss().detach()) < 1e-3
    found = hessian_spectrum(loss, net.parameters(), generator=generator())
    assert "one-sided" not in found.method
    assert found.gradients_spent == 1 + 2 * (found.products - 1) + 1  # the one that showed it
