import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_gradtools.gradients.norms import find_nonfinite, gradient_norms, tensor_norms, total_norm

POWERS = [1.0, 2.0, math.inf]


def reference(tensor: torch.Tensor, p: float) -> float:
    """Sum of powers in float64: shares no code with the library."""
    magnitudes = tensor.to_dense().to(torch.complex128 if tensor.is_complex() else torch.float64).abs()
    if not magnitudes.numel():
        return 0.0
    return float(magnitudes.max() if p == math.inf else magnitudes.pow(p).sum() ** (1 / p))


def uncoalesced() -> torch.Tensor:
    """Row 1 occurs twice: the norm of the stored values is not the norm of the tensor."""
    tensor = torch.sparse_coo_tensor(torch.tensor([[1, 1, 4]]), torch.randn(3, 5), (6, 5))
    assert not tensor.is_coalesced()
    return tensor


MAKERS = {
    "dense": lambda: torch.randn(7, 3),
    "not contiguous": lambda: torch.randn(300, 200).t(),
    "channels last": lambda: torch.randn(8, 64, 9, 9).to(memory_format=torch.channels_last),
    "scalar": lambda: torch.randn(()),
    "empty": lambda: torch.zeros(0, 3),
    "zeros": lambda: torch.zeros(5),
    "bfloat16": lambda: torch.randn(50_000).bfloat16(),
    "float16 whose norm overflows it": lambda: torch.full((10_000,), 948.0).half(),
    "float64": lambda: torch.randn(9, dtype=torch.float64),
    "complex": lambda: torch.randn(6, dtype=torch.complex64),
    "long": lambda: torch.randn(3_000_001),
    "sparse, coalesced": lambda: uncoalesced().coalesce(),
    "sparse, not coalesced": uncoalesced,
    "sparse, empty": lambda: torch.sparse_coo_tensor(torch.zeros(1, 0), torch.zeros(0, 5), (6, 5)),
}


@pytest.mark.parametrize("p", POWERS)
@pytest.mark.parametrize("kind", MAKERS)
def test_norm_equals_the_sum_of_powers_in_float64(kind, p):
    torch.manual_seed(0)
    tensor = MAKERS[kind]()
    found = tensor_norms([tensor, tensor], p)
    assert found.tolist() == pytest.approx([reference(tensor, p)] * 2, rel=1e-6)


@pytest.mark.parametrize("p", POWERS)
def test_any_mix_gives_each_its_norm_and_the_norm_of_all_as_one_vector(p):
    torch.manual_seed(0)
    tensors = [make() for make in MAKERS.values()]
    norms = tensor_norms(tensors, p)
    expected = [reference(tensor, p) for tensor in tensors]
    assert norms.tolist() == pytest.approx(expected, rel=1e-6)
    assert float(total_norm(norms, p)) == pytest.approx(reference(torch.tensor(expected), p), rel=1e-6)


def test_half_precision_adds_up_in_float32_and_float64_stays_float64():
    half = tensor_norms([torch.ones(3).half()])
    double = tensor_norms([torch.ones(3), torch.ones(3, dtype=torch.float64)])
    assert (half.dtype, double.dtype) == (torch.float32, torch.float64)
    assert float(double[1]) == math.sqrt(3)


def test_parameters_without_a_gradient_are_left_out_and_a_tied_weight_counts_once():
    layer = torch.nn.Linear(3, 3, bias=False)
    twice, unused = torch.nn.Sequential(layer, layer), torch.nn.Parameter(torch.ones(2))
    twice(torch.randn(5, 3)).square().sum().backward()
    norms = gradient_norms([unused, *twice.parameters()])
    assert list(norms.parameters) == [layer.weight]
    assert norms.per_parameter.tolist() == pytest.approx([reference(layer.weight.grad, 2)], rel=1e-6)
    assert norms.gradients()[0] is layer.weight.grad


def test_no_gradient_at_all_has_total_zero():
    norms = gradient_norms([torch.nn.Parameter(torch.ones(2))])
    assert (len(norms.per_parameter), norms.total.item()) == (0, 0.0)


def test_the_pass_holds_no_gradient_alive():
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    norms = gradient_norms([parameter])
    parameter.grad = None
    assert norms.gradients() == []


@given(st.lists(st.lists(st.floats(-1e3, 1e3, width=32), max_size=20), min_size=1, max_size=5))
def test_norms_scale_with_the_gradient_and_order_as_p_norms_do(vectors):
    tensors = [torch.tensor(vector, dtype=torch.float32) for vector in vectors]
    one, two, largest = (total_norm(tensor_norms(tensors, p), p).item() for p in POWERS)
    assert largest <= two * (1 + 1e-6) + 1e-20
    assert two <= one * (1 + 1e-6) + 1e-20
    doubled = total_norm(tensor_norms([2 * tensor for tensor in tensors])).item()
    assert doubled == pytest.approx(2 * two, rel=1e-6)


@pytest.mark.parametrize("p", POWERS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_reach_the_norm(bad, p):
    tensor = torch.ones(5)
    tensor[3] = bad
    assert not math.isfinite(tensor_norms([torch.ones(2), tensor], p)[1])


def test_nonfinite_is_told_apart():
    nan, inf, both = (
        torch.tensor([1.0, math.nan]),
        torch.tensor([math.inf]),
        torch.tensor([math.inf, math.nan]),
    )
    found = find_nonfinite([torch.ones(1), nan, inf, both, uncoalesced() * math.nan])
    assert (found.nan, found.inf, found.overflow) == ((1, 3, 4), (2,), False)


def test_overflow_of_finite_elements_is_told_apart_and_float64_has_their_norm():
    huge = torch.full((4,), 1e30)
    assert tensor_norms([huge]).isinf()
    assert find_nonfinite([huge]).overflow
    assert tensor_norms([huge], accumulate=torch.float64).item() == pytest.approx(2e30, rel=1e-6)
    complex_huge = huge.to(torch.complex64)
    assert tensor_norms([complex_huge], accumulate=torch.float64).item() == pytest.approx(2e30, rel=1e-6)
