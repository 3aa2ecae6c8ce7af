"""The iteration itself: its basis, and what it says of it."""

import pytest
import torch
from quadratics import quadratic

from lightning_gradtools.curvature import RetainedHessian, eigensolver, hessian_spectrum
from lightning_gradtools.curvature.lanczos import Lanczos


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
    lanczos = Lanczos(hessian(torch.linspace(-3, 2, 60).tolist()), torch.ones(60, dtype=torch.float64), max_basis=20)
    for _ in range(15):
        lanczos.step()
    basis, aside = lanczos.basis(), torch.zeros(60, dtype=torch.float64)
    aside[0] = outside
    rest, shadow, left = lanczos._orthogonalize(basis.sum(0) + aside)
    assert (basis @ rest).norm() < 1e-14 * left * 10
    assert left == pytest.approx(float((aside - basis.T @ (basis @ aside)).norm()), rel=1e-6)
    torch.testing.assert_close(shadow, 1 + basis @ aside)


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
def test_looking_less_often_costs_no_product(monkeypatch, seed):
    values = [10.0, 8.0, 6.0, 5.0, -4.0, *torch.linspace(-1, 1, 300).tolist()]
    loss, parameters, _ = quadratic(values, seed)
    looks = []
    outlook = Lanczos.outlook
    monkeypatch.setattr(Lanczos, "outlook", lambda self, k: looks.append(self.products) or outlook(self, k))
    found = hessian_spectrum(loss, parameters, generator=generator(seed))
    few = len(looks)
    monkeypatch.setattr(eigensolver, "_FASTEST_FALL", 1e12)
    always = hessian_spectrum(loss, parameters, generator=generator(seed))
    assert found.products == always.products
    assert few < len(looks) - few


def test_a_product_that_is_not_finite_is_an_error():
    weight = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(ArithmeticError, match="not finite"):
        hessian_spectrum(lambda: (weight.square() * torch.tensor([1.0, torch.inf, 1.0])).sum(), [weight])
