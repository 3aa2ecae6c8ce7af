"""The iteration itself: its basis, and what it says of it."""

import pytest
import torch
from helpers.quadratics import quadratic
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_gradtools.curvature import Budget, RetainedHessian, hessian_spectrum
from lightning_gradtools.curvature.budget import Meter
from lightning_gradtools.curvature.eigensolver import eigenpairs, start_vector
from lightning_gradtools.curvature.lanczos import Lanczos
from lightning_gradtools.curvature.operator import WrappedOperator


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Noisy(WrappedOperator):
    """A symmetric operator, and noise in its products."""

    def __init__(self, operator, noise):
        super().__init__(operator)
        self.noise, self.draw = noise, generator(7)

    def matvec(self, vector):
        product = super().matvec(vector)
        return product + self.noise * product.norm() * self.space.random(self.draw) / len(product) ** 0.5


def hessian(values, dtype=torch.float64):
    loss, parameters, matrix = quadratic(values)
    if dtype == torch.float32:
        small, parameters = matrix.float(), [torch.nn.Parameter(p.detach().float()) for p in parameters]
        return RetainedHessian(lambda: torch.cat(parameters) @ small @ torch.cat(parameters) / 2, parameters)
    return RetainedHessian(loss, parameters)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
@pytest.mark.parametrize("max_basis", [150, 20])
@pytest.mark.parametrize("noise", [0.0, 1e-2])
def test_the_basis_stays_orthonormal(dtype, tolerance, max_basis, noise):
    """Where the largest value has long converged, where the basis restarts, and where products are not symmetric."""
    values = [1000.0, 100.0, *torch.linspace(-1, 1, 200).tolist(), *[0.0] * 20]
    lanczos = Lanczos(Noisy(hessian(values, dtype), noise), torch.ones(len(values), dtype=dtype), max_basis=max_basis)
    for _ in range(150):
        lanczos.step()
    basis = lanczos.basis().double()
    assert (basis @ basis.T - torch.eye(len(basis), dtype=torch.float64)).abs().max() < tolerance


@pytest.mark.parametrize("outside", [1e-3, 1e-9])
def test_what_is_nearly_in_the_span_of_the_basis_is_orthogonalised_again(outside):
    operator, aside, made = hessian(torch.linspace(-3, 2, 60).tolist()), torch.zeros(60, dtype=torch.float64), []
    aside[0] = outside

    def products(vector):
        made.append(vector)
        return (torch.stack(made).sum(0) + aside if len(made) == 16 else operator.matvec(vector)), 0.0

    lanczos = Lanczos(operator, torch.ones(60, dtype=torch.float64), max_basis=20, relaxed=products)
    for _ in range(15):
        lanczos.step()
    before = lanczos.projected_trace()
    lanczos.step()
    basis = lanczos.basis().clone()
    assert lanczos.projected_trace() - before == pytest.approx(float(1 + basis[-1] @ aside), rel=1e-9)
    lanczos.step()  # now the next vector is in the basis
    rest = aside - basis.T @ (basis @ aside)
    torch.testing.assert_close(lanczos.basis()[-1], rest / rest.norm(), rtol=0, atol=1e-6)
    assert (basis @ lanczos.basis()[-1]).norm() < 1e-13


@pytest.mark.parametrize("max_basis", [40, 12])
@pytest.mark.parametrize("which", ["magnitude", "algebraic"])
def test_the_outlook_is_what_ritz_pairs_say_without_noise_and_never_more(max_basis, which):
    exact = hessian(torch.linspace(-3, 2, 60).tolist())
    for noise in (0.0, 1e-2):
        lanczos = Lanczos(Noisy(exact, noise), torch.ones(60, dtype=torch.float64), max_basis=max_basis, which=which)
        for _ in range(20):
            lanczos.step()
            pairs, outlook = lanczos.ritz_pairs(), lanczos.outlook(4)
            assert [value for value, _ in outlook] == pytest.approx(pairs.values[:4].tolist())
            for (_, coupling), residual in zip(outlook, pairs.residuals.tolist(), strict=False):
                assert coupling <= residual + 1e-9
                if not noise:
                    assert coupling == pytest.approx(residual, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_looking_less_often_costs_no_product(seed):
    class Watched(Lanczos):
        looks = 0

        def outlook(self, k):
            self.looks += 1
            return super().outlook(k)

    values = [10.0, 8.0, 6.0, 5.0, -4.0, *torch.linspace(-1, 1, 300).tolist()]

    def run(**options):
        loss, parameters, _ = quadratic(values, seed)
        operator = RetainedHessian(loss, parameters)
        lanczos = Watched(operator, start_vector(operator, generator=generator(seed)), max_basis=60)
        meter = Meter(operator, Budget(), 0.0, shared=False)
        assert eigenpairs(lanczos, 5, rtol=1e-3, meter=meter, **options).converged
        return lanczos

    seldom, always = run(), run(fastest_fall=1e12)
    assert seldom.products == always.products
    assert always.looks == always.products - 4  # from the first basis that holds five values
    assert seldom.looks < always.looks


class LargestTensor(TorchDispatchMode):
    """Notes the number of entries of the largest storage that an operation returned."""

    def __init__(self):
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.entries = max(self.entries, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


def test_an_iteration_that_ends_early_holds_no_room_for_a_longer_one():
    n = 4000
    weight = torch.nn.Parameter(torch.linspace(1, 2, n))
    curvature = torch.linspace(0, 1, n)
    curvature[-1] = 100.0
    with LargestTensor() as seen:
        found = hessian_spectrum(lambda: curvature @ weight.square() / 2, [weight], top_k=1, generator=generator())
    assert found.converged
    assert found.products < 10
    assert 10 * n < seen.entries <= 17 * n  # of the 45 rows that it may come to


def test_memory_bounds_the_vectors_that_are_kept():
    n, kept = 4000, 12
    weight = torch.nn.Parameter(torch.linspace(1, 2, n))
    curvature = torch.cat([torch.linspace(0, 1, n - 1), torch.tensor([1.2])])

    def run(memory):
        with LargestTensor() as seen:
            found = hessian_spectrum(
                lambda: curvature @ weight.square() / 2,
                [weight],
                top_k=1,
                rtol=1e-5,
                generator=generator(),
                method="fresh",
                memory=memory,
            )
        return found, seen.entries

    free, roomy = run(None)
    bounded, tight = run(2 * kept * n * 4)
    assert roomy > kept * n >= tight
    assert free.converged
    assert bounded.converged
    assert bounded.products > free.products
    assert bounded.eigenvalues.tolist() == pytest.approx(free.eigenvalues.tolist(), rel=2e-5)


@pytest.mark.parametrize(("steps", "rows"), [(3, 16), (15, 16), (16, 32), (40, 61), (90, 61)])
def test_room_doubles_up_to_the_limit(steps, rows):
    n = 200
    lanczos = Lanczos(hessian(torch.linspace(-3, 2, n).tolist()), torch.ones(n, dtype=torch.float64), max_basis=60)
    for _ in range(steps):
        lanczos.step()
    assert lanczos.basis().untyped_storage().nbytes() == rows * n * 8


def test_a_product_that_is_not_finite_is_an_error():
    weight = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(ArithmeticError, match="not finite"):
        hessian_spectrum(lambda: (weight.square() * torch.tensor([1.0, torch.inf, 1.0])).sum(), [weight])
