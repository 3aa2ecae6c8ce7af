import pytest
import torch

from lightning_gradtools.gradients.direction import inner_products


def test_equals_the_sum_of_products_on_any_mix():
    torch.manual_seed(0)

    def sparse():
        return torch.sparse_coo_tensor(torch.tensor([[1, 1, 4]]), torch.randn(3, 5), (6, 5))

    kinds = [
        lambda: torch.randn(4, 3),
        lambda: torch.randn(3, 4).t(),
        lambda: torch.randn(6, dtype=torch.float64),
        lambda: torch.randn(9).bfloat16(),
        lambda: torch.zeros(0),
        sparse,
    ]
    first, second = ([make() for make in kinds] for _ in range(2))
    expected = [
        float((a.to_dense().double() * b.to_dense().double()).sum()) for a, b in zip(first, second, strict=True)
    ]
    assert inner_products(first, second).tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert len(inner_products([], [])) == 0


def test_of_complex_gradients_is_that_of_their_parts():
    a, b = torch.randn(5, dtype=torch.complex64), torch.randn(5, dtype=torch.complex64)
    expected = (torch.view_as_real(a) * torch.view_as_real(b)).sum().item()
    assert inner_products([a], [b]).item() == pytest.approx(expected, rel=1e-5)
