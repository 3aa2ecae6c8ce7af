import copy
import math

import pytest
import torch
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.gradients.clipping import clip_by_global_norm_, clip_by_value_

POWERS = [1.0, 2.0, math.inf]


def parameters(*gradients):
    made = []
    for gradient in gradients:
        shape, dtype = (
            (3,) if gradient is None else gradient.shape,
            torch.float32 if gradient is None else gradient.dtype,
        )
        made.append(torch.nn.Parameter(torch.zeros(shape, dtype=dtype)))
        made[-1].grad = gradient
    return made


def sparse():
    return torch.sparse_coo_tensor(torch.tensor([[1, 1, 4]]), torch.randn(3, 5), (6, 5))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("p", POWERS)
@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 1e3])
def test_equals_torch_where_torch_can(max_norm, p):
    ours = parameters(
        torch.randn(4, 4),
        None,
        torch.randn(5, dtype=torch.float64),
        torch.randn(3).bfloat16(),
        torch.randn(2, dtype=torch.complex64),
    )
    theirs = copy.deepcopy(ours)
    for parameter, other in zip(ours, theirs, strict=True):
        other.grad = None if parameter.grad is None else parameter.grad.clone()
    total = clip_by_global_norm_(ours, max_norm, p).total
    # torch adds up bfloat16 in bfloat16, so its total has 3 digits here
    assert float(total) == pytest.approx(float(clip_grad_norm_(theirs, max_norm, p)), rel=4e-3)
    for parameter, other in zip(ours, theirs, strict=True):
        if other.grad is not None:
            torch.testing.assert_close(parameter.grad, other.grad, rtol=8e-3, atol=0)


@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 1e3])
def test_is_bit_for_bit_torch_on_short_float32(max_norm):
    ours = parameters(torch.randn(40, 40), torch.randn(40))
    theirs = parameters(*(parameter.grad.clone() for parameter in ours))
    assert clip_by_global_norm_(ours, max_norm).total == clip_grad_norm_(theirs, max_norm)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours, theirs, strict=True))


def test_closed_form_where_torch_raises():
    ours = parameters(torch.randn(4), sparse(), sparse().coalesce())
    dense = [parameter.grad.to_dense().double() for parameter in ours]
    with pytest.raises((RuntimeError, NotImplementedError)):
        clip_grad_norm_(parameters(*(parameter.grad.clone() for parameter in ours)), 0.5)
    clip_by_global_norm_(ours, 0.5)
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in dense))
    for parameter, before in zip(ours, dense, strict=True):
        expected = before * (0.5 / (norm + 1e-6))
        torch.testing.assert_close(parameter.grad.to_dense().double(), expected, rtol=1e-6, atol=1e-7)


def test_value_equals_torch_and_the_closed_form_where_torch_raises():
    ours = parameters(torch.randn(50), None, torch.randn(50).bfloat16())
    theirs = parameters(*(None if p.grad is None else p.grad.clone() for p in ours))
    clip_by_value_(ours, 0.3)
    clip_grad_value_(theirs, 0.3)
    assert all(a.grad is None or torch.equal(a.grad, b.grad) for a, b in zip(ours, theirs, strict=True))

    (mixed,) = parameters(torch.randn(20, dtype=torch.complex64))
    expected = torch.complex(mixed.grad.real.clamp(-0.3, 0.3), mixed.grad.imag.clamp(-0.3, 0.3))
    clip_by_value_([mixed], 0.3)
    assert torch.equal(mixed.grad, expected)

    (embedding,) = parameters(sparse())
    expected = embedding.grad.to_dense().clamp(-0.3, 0.3)  # the sum of the duplicates, not each of them
    clip_by_value_([embedding], 0.3)
    assert torch.equal(embedding.grad.to_dense(), expected)


def test_value_keeps_nan_and_clamps_infinity():
    (parameter,) = parameters(torch.tensor([math.nan, math.inf, -math.inf, 0.1]))
    clip_by_value_([parameter], 0.3)
    assert parameter.grad[0].isnan()
    assert parameter.grad[1:].tolist() == pytest.approx([0.3, -0.3, 0.1])


@pytest.mark.parametrize("bound", [math.nan, -1.0, math.inf])
@pytest.mark.parametrize(("clip", "name"), [(clip_by_global_norm_, "max_norm"), (clip_by_value_, "clip_value")])
def test_what_is_no_bound_is_refused_and_changes_nothing(clip, name, bound):
    (parameter,) = parameters(torch.randn(4))
    before = parameter.grad.clone()
    with pytest.raises(ArgumentError, match=f"{name}={bound!r}: must be a finite number >= 0"):
        clip([parameter], bound)
    assert torch.equal(parameter.grad, before)
