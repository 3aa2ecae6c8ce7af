"""Eigenvalues, trace and density against closed forms."""

import copy
import itertools

import pytest
import torch
from helpers.quadratics import dense_hessian, network, quadratic
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.curvature import Budget, hessian_spectrum
from lightning_gradtools.tasks import MLP

# Values apart by 0 or at least 0.01: closer ones are not told apart at the tolerance used below.
levels = st.integers(-400, 400).map(lambda i: i / 100)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def wanted(values, which, k):
    key = abs if which == "magnitude" else float
    return sorted(map(key, values), reverse=True)[:k]


# the deflated iteration all but exhausts a space, and what rounding leaves is no further direction
@example(distinct=[0.0, -0.57, -0.01], copies=[1, 5, 3, 1, 1, 1, 1, 1], which="algebraic", top_k=2, seed=0)
@settings(max_examples=60, deadline=None)
@given(
    distinct=st.lists(levels, min_size=1, max_size=8, unique=True),
    copies=st.lists(st.integers(1, 5), min_size=8, max_size=8),
    which=st.sampled_from(["magnitude", "algebraic"]),
    top_k=st.integers(1, 6),
    seed=st.integers(0, 100),
)
def test_prescribed_spectra_are_recovered_with_multiplicity(distinct, copies, which, top_k, seed):
    """Degenerate, zero, negative and indefinite ones."""
    values = [value for value, count in zip(distinct, itertools.cycle(copies), strict=False) for _ in range(count)]
    values = values + [0.0] * (2 - min(len(values), 2))
    loss, parameters, _ = quadratic(values, seed)
    found = hessian_spectrum(
        loss, parameters, top_k=top_k, rtol=1e-8, which=which, multiplicity=True, generator=generator(seed)
    )
    key = torch.abs if which == "magnitude" else torch.clone
    expected = torch.tensor(wanted(values, which, top_k), dtype=torch.float64)
    assert found.converged
    torch.testing.assert_close(key(found.eigenvalues), expected, rtol=1e-7, atol=1e-10)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(-5, 5), min_size=20, max_size=50),
    st.integers(0, 100),
    st.integers(2, 30),
    st.sampled_from(["auto", "retained"]),
)
def test_every_value_is_within_its_bound_of_an_eigenvalue_converged_or_not(values, seed, gradients, method):
    loss, parameters, matrix = quadratic(values, seed)
    found = hessian_spectrum(
        loss, parameters, method=method, budget=gradients, generator=generator(seed), keep_vectors=True
    )
    exact = torch.linalg.eigvalsh(matrix)
    distance = (found.eigenvalues[:, None] - exact).abs().min(dim=1).values
    assert (distance <= found.bounds).all()
    assert found.gradients_spent <= gradients
    if len(found.eigenvalues):
        x = found.eigenvectors
        torch.testing.assert_close(x @ x.T, torch.eye(len(x), dtype=x.dtype), rtol=0, atol=1e-10)
        residuals = (x @ matrix - found.eigenvalues[:, None] * x).norm(dim=1)
        if method == "retained":
            torch.testing.assert_close(residuals, found.residuals, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("method", ["auto", "retained", "fresh", "finite_difference"])
@pytest.mark.parametrize("which", ["magnitude", "algebraic"])
def test_a_network_in_float64(method, which):
    loss, net = network()
    exact = torch.linalg.eigvalsh(dense_hessian(loss, list(net.parameters())))
    order = exact.abs() if which == "magnitude" else exact
    expected = exact[order.argsort(descending=True)][:5]
    found = hessian_spectrum(loss, net.parameters(), rtol=1e-5, which=which, method=method, generator=generator())
    assert found.converged
    torch.testing.assert_close(found.eigenvalues, expected, rtol=1e-5, atol=0)
    assert ((found.eigenvalues - expected).abs() <= found.bounds).all()


def test_all_eigenvalues():
    loss, net = network()
    exact = torch.linalg.eigvalsh(dense_hessian(loss, list(net.parameters())))
    found = hessian_spectrum(loss, net.parameters(), top_k=len(exact), rtol=1e-9, generator=generator())
    torch.testing.assert_close(found.eigenvalues.sort().values, exact, rtol=1e-9, atol=1e-11)
    assert found.products == len(exact)


def test_restarts_reach_the_same_values_with_less_memory():
    values = [10.0, 9.0, 8.5, *torch.linspace(-5, 5, 97).tolist()]
    loss, parameters, _ = quadratic(values)
    found = hessian_spectrum(loss, parameters, top_k=3, rtol=1e-6, max_basis=10, generator=generator())
    whole = hessian_spectrum(loss, parameters, top_k=3, rtol=1e-6, generator=generator())
    assert found.converged
    assert found.products > 11
    assert found.products >= whole.products
    torch.testing.assert_close(
        found.eigenvalues, torch.tensor([10.0, 9.0, 8.5], dtype=torch.float64), rtol=1e-6, atol=0
    )


def test_a_basis_on_the_host_changes_nothing():
    loss, net = network()
    here = hessian_spectrum(loss, net.parameters(), generator=generator())
    there = hessian_spectrum(loss, net.parameters(), generator=generator(), offload=True)
    assert torch.equal(here.eigenvalues, there.eigenvalues)


def test_the_block_of_a_layer():
    loss, net = network()
    block = [net[2].weight]
    found = hessian_spectrum(loss, block, top_k=3, rtol=1e-8, generator=generator())
    exact = torch.linalg.eigvalsh(dense_hessian(loss, block))
    torch.testing.assert_close(found.eigenvalues, exact[exact.abs().argsort(descending=True)][:3])


def test_a_warm_start_costs_less_where_little_moved_and_hardly_more_where_all_did():
    values = torch.cat([torch.linspace(-1, 1, 190), torch.linspace(6, 10, 10)]).tolist()
    loss, parameters, _ = quadratic(values, seed=1)
    for parameter in parameters:
        parameter.data.zero_()  # no gradient helps
    options = {"top_k": 1, "generator": generator()}
    known = hessian_spectrum(loss, parameters, keep_vectors=True, rtol=1e-6, top_k=1, generator=generator())
    cold = [hessian_spectrum(loss, parameters, **options).products for _ in range(20)]
    warm = [hessian_spectrum(loss, parameters, start=known, **options).products for _ in range(20)]
    assert max(warm) < min(cold)
    other, elsewhere, _ = quadratic(values, seed=2)
    for parameter in elsewhere:
        parameter.data.zero_()
    misled = [hessian_spectrum(other, elsewhere, start=known, **options).products for _ in range(20)]
    assert sum(misled) <= 1.25 * sum(cold)


def test_a_budget_returns_the_best_found_and_says_that_it_is_not_done():
    loss, net = network()
    found = hessian_spectrum(loss, net.parameters(), rtol=1e-10, budget=15, generator=generator())
    assert not found.converged
    assert found.products == 7  # one gradient, and seven products of two
    assert found.gradients_spent == 15
    assert len(found.eigenvalues) == 5
    timed = hessian_spectrum(loss, net.parameters(), budget=Budget(seconds=1e-9), generator=generator())
    assert timed.products == 0
    assert not timed.converged


def test_trace_is_within_its_standard_error_and_exact_where_the_basis_is_everything():
    loss, net = network()
    exact = float(dense_hessian(loss, list(net.parameters())).trace())
    options = {"trace": 200, "top_k": 2, "max_basis": 100}
    whole = hessian_spectrum(loss, net.parameters(), method="retained", generator=generator(), **options)
    assert whole.trace.standard_error == 0
    assert whole.trace.value == pytest.approx(exact, rel=1e-10)
    relaxed = hessian_spectrum(loss, net.parameters(), generator=generator(), **options)
    assert 0 < relaxed.trace.standard_error < 1e-6 * exact
    assert abs(relaxed.trace.value - exact) < 5 * relaxed.trace.standard_error
    scores = []
    for seed in range(40):
        found = hessian_spectrum(loss, net.parameters(), trace=30, top_k=2, max_basis=15, generator=generator(seed))
        assert found.products <= 30
        scores.append((found.trace.value - exact) / found.trace.standard_error)
    # of Student's t with 14 degrees of freedom: |t| > 5 has a probability of 2e-4
    assert max(map(abs, scores)) < 5
    assert 0.5 < torch.tensor(scores).square().mean() < 2.5


def test_density_has_the_moments_of_the_spectrum():
    values = torch.cat([torch.linspace(-2, 2, 120), torch.tensor([20.0, 30.0])])
    loss, parameters, _ = quadratic(values.tolist())
    found = hessian_spectrum(loss, parameters, density=400, top_k=2, generator=generator())
    density = found.density
    assert found.products <= 400
    assert float(density.weights.sum()) == pytest.approx(1)
    for value in (20, 30):  # deflated: exact, with the weight of one eigenvalue
        at = (density.support - value).abs().argmin()
        assert float(density.support[at]) == pytest.approx(value, rel=1e-3)
        assert float(density.weights[at]) == pytest.approx(1 / 122, rel=1e-3)
    mean, square = density.support @ density.weights, density.support.square() @ density.weights
    assert abs(mean - values.double().mean()) < 5 * density.error + 0.05
    assert square == pytest.approx(float(values.square().mean()), rel=0.02)
    assert found.negative_share == pytest.approx(float(values[values < 0].abs().sum() / values.abs().sum()), rel=0.1)
    assert found.trace.value == pytest.approx(50, abs=5 * found.trace.standard_error)
    grid = torch.linspace(-5, 35, 200_000)  # finer than the narrowest mass is wide
    assert float(torch.trapezoid(density.smoothed(grid), grid.double())) == pytest.approx(1, rel=0.05)


def test_condition_number_is_over_the_positive_part():
    loss, parameters, _ = quadratic([8.0, 2.0, 0.5, -4.0, 0.0])
    found = hessian_spectrum(loss, parameters, top_k=5, generator=generator())
    assert found.condition_number == pytest.approx(16)
    negative, parameters, _ = quadratic([-1.0, -2.0, -3.0])
    assert hessian_spectrum(negative, parameters, top_k=3).condition_number != found.condition_number


def test_flash_attention_falls_back_to_differences_and_say_so():
    torch.manual_seed(0)
    q = torch.nn.Parameter(torch.randn(1, 2, 16, 8))
    target = torch.randn(1, 2, 16, 8)

    def loss():
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
            return (torch.nn.functional.scaled_dot_product_attention(q, q, q) - target).square().mean() * 100

    def reference():
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            wide = q.double()
            return (torch.nn.functional.scaled_dot_product_attention(wide, wide, wide) - target).square().mean() * 100

    found = hessian_spectrum(loss, [q], top_k=2, generator=generator())
    exact = hessian_spectrum(reference, [q], top_k=2, rtol=1e-5, generator=generator())
    assert "finite difference" in found.method
    assert "no second derivative" in found.method
    assert exact.method.startswith("retained graph")
    torch.testing.assert_close(found.eigenvalues, exact.eigenvalues, rtol=1e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_compiled_network_has_the_eigenvalues_of_its_eager_twin(dtype):
    """By differences: a compiled graph has no second derivative."""
    _, net = network(dtype)
    x = torch.randn(20, 5, dtype=dtype, generator=generator())
    compiled = torch.compile(net, backend="aot_eager")
    y = torch.arange(20) % 3
    found = hessian_spectrum(
        lambda: torch.nn.functional.cross_entropy(compiled(x), y), net.parameters(), generator=generator()
    )
    wide = copy.deepcopy(net).double()
    exact = hessian_spectrum(
        lambda: torch.nn.functional.cross_entropy(wide(x.double()), y),
        wide.parameters(),
        rtol=1e-8,
        generator=generator(),
    )
    assert found.method.startswith("finite difference (no second derivative")
    torch.testing.assert_close(found.eigenvalues, exact.eigenvalues, rtol=1e-3, atol=0)


@pytest.mark.slow
def test_all_eigenvalues_of_a_network_for_digits():
    """3,466 of them, many zero: pixels that are always dark, units that are always off."""
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images[:256] / 16), torch.tensor(labels[:256])
    net = MLP(64, 10, width=32, depth=2).double()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)

    def loss():
        return torch.nn.functional.cross_entropy(net(x), y)

    for _ in range(100):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    exact = torch.linalg.eigvalsh(dense_hessian(loss, list(net.parameters())))
    found = hessian_spectrum(loss, net.parameters(), top_k=3466, rtol=1e-9, max_basis=3470, generator=generator())
    torch.testing.assert_close(found.eigenvalues.sort().values, exact, rtol=1e-9, atol=1e-10 * float(exact[-1]))


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(reentrant):
    _, net = network()
    x = torch.randn(20, 5, dtype=torch.float64, generator=generator(), requires_grad=True)

    def checkpointed():
        return torch.utils.checkpoint.checkpoint(net, x, use_reentrant=reentrant).square().mean()

    kept = [torch.ones_like(parameter) for parameter in net.parameters()]
    for parameter, gradient in zip(net.parameters(), kept, strict=True):
        parameter.grad = gradient
    found = hessian_spectrum(checkpointed, net.parameters(), rtol=1e-5, generator=generator())
    exact = hessian_spectrum(lambda: net(x).square().mean(), net.parameters(), rtol=1e-7, generator=generator())
    torch.testing.assert_close(found.eigenvalues, exact.eigenvalues, rtol=2e-5, atol=0)
    for parameter, gradient in zip(net.parameters(), kept, strict=True):
        assert parameter.grad is gradient
        assert bool((gradient == 1).all())


def test_memory_decides():
    loss, net = network()
    found = hessian_spectrum(loss, net.parameters(), memory=1000, generator=generator())
    assert found.method.startswith("finite difference (a graph would hold")


@pytest.mark.parametrize(
    "arguments",
    [{"top_k": -1}, {"rtol": 0.0}, {"which": "largest"}, {"method": "magic"}, {"trace": -1}, {"max_basis": 3}],
)
def test_bad_arguments_are_named(arguments):
    loss, net = network()
    (name,) = arguments
    with pytest.raises(ArgumentError, match=rf"^{name}="):
        hessian_spectrum(loss, net.parameters(), **arguments)


def test_a_repeated_eigenvalue_is_reported_once_and_the_result_says_so():
    values = [10.0, 10.0, 10.0, 4.0, *torch.linspace(0, 1, 30).tolist()]
    loss, parameters, _ = quadratic(values, 0)
    once = hessian_spectrum(loss, parameters, top_k=2, rtol=1e-8, trace=True, generator=generator(0))
    assert once.eigenvalues.tolist() == pytest.approx([10, 4])
    assert once.converged
    assert not once.multiplicity
    assert once.trace.value == pytest.approx(sum(values))
    every = hessian_spectrum(loss, parameters, top_k=2, rtol=1e-8, multiplicity=True, generator=generator(0))
    assert every.eigenvalues.tolist() == pytest.approx([10, 10])
    assert every.multiplicity
