"""The input-output Jacobian of a network by products: its largest singular values, and the gain of each layer."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lightning_gradtools.arguments import ArgumentError, integer, number
from lightning_gradtools.curvature.operator import require_derivative


def singular_values(
    function: Callable[[Tensor], Tensor],
    inputs: Tensor,
    k: int = 1,
    *,
    rtol: float = 1e-3,
    max_products: int = 200,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, bool]:
    """Return the ``k`` largest singular values (k,) of the Jacobian at ``inputs``, and whether they converged.

    Golub-Kahan-Lanczos bidiagonalisation with full reorthogonalisation on one graph of ``function``: each
    step makes one product with J and one with Jᵀ (Golub & Van Loan 2013, "Matrix Computations", section
    10.4). It stops when the residual of each triplet is at most ``rtol`` times its singular value. For a batch
    the Jacobian is that of all outputs with respect to all inputs: block-diagonal, so that the largest value
    is that of the sample with the largest.

    Args:
        function: differentiable.
        inputs: floating-point, of any shape.
        k: how many; at most the smaller of the numbers of inputs and outputs.
        rtol: relative residual of each.
        max_products: with J and Jᵀ together.
        generator: of the first direction, on the host.

    Raises:
        ArgumentError: for a value that cannot work, or an output that does not depend on the input.
        RuntimeError: if the backward pass of an operation is marked ``once_differentiable``.
    """
    integer("k", k, at_least=1)
    number("rtol", rtol, above=0, below=1)
    integer("max_products", max_products, at_least=2)
    with torch.enable_grad():
        point = inputs.detach().clone().requires_grad_()
        outputs = function(point)
        if not outputs.requires_grad:
            raise ArgumentError("function: its output does not depend on its input")
        dual = torch.zeros_like(outputs, requires_grad=True)
        (pulled,) = torch.autograd.grad(outputs, point, dual, create_graph=True)
        require_derivative([pulled])

    def push(v: Tensor) -> Tensor:
        if not pulled.requires_grad:
            return torch.zeros(outputs.numel(), dtype=v.dtype, device=v.device)
        return torch.autograd.grad(pulled, dual, v.view_as(point), retain_graph=True)[0].reshape(-1)

    def pull(u: Tensor) -> Tensor:
        return torch.autograd.grad(outputs, point, u.view_as(outputs), retain_graph=True)[0].reshape(-1)

    smaller = min(point.numel(), outputs.numel())
    if k > smaller:
        raise ArgumentError(f"k={k}: must be an integer <= {smaller}, the smaller of the numbers of inputs and outputs")
    start = torch.randn(point.numel(), generator=generator).to(point)
    right: list[Tensor] = [start / start.norm()]
    left: list[Tensor] = []
    diagonal: list[float] = []
    above: list[float] = []
    values, converged = torch.zeros(0, dtype=torch.float64), False
    while 2 * len(diagonal) + 2 <= max_products and len(diagonal) < smaller:
        u = _orthogonal(push(right[-1]), left)
        diagonal.append(float(u.norm()))
        left.append(u / (u.norm() if u.norm() > 0 else 1))
        v = _orthogonal(pull(left[-1]), right)
        above.append(float(v.norm()))
        size = len(diagonal)
        bidiagonal = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        bidiagonal += torch.diag(torch.tensor(above[:-1], dtype=torch.float64), 1)
        lefts, values, _ = torch.linalg.svd(bidiagonal)
        floor = 32 * torch.finfo(point.dtype).eps * float(values[0])
        if size >= k and bool((above[-1] * lefts[-1, :k].abs() <= rtol * values[:k] + floor).all()):
            converged = True
            break
        if above[-1] <= floor:  # the space is invariant: another direction has nothing to do with it
            v = _orthogonal(torch.randn(point.numel(), generator=generator).to(point), right)
            above[-1] = 0.0
        if len(right) == point.numel() or v.norm() == 0:
            converged = size >= k
            break
        right.append(v / v.norm())
    if not converged and len(diagonal) == smaller:  # the left space is exhausted; one right vector is still coupled
        last = torch.zeros(smaller, 1, dtype=torch.float64)
        last[-1] = above[-1]
        values, converged = torch.linalg.svdvals(torch.cat([bidiagonal, last], 1)), True
    return values[:k], converged


def layer_gain(function: Callable[[Tensor], Tensor], inputs: Tensor, *, probes: int = 8, seed: int = 0) -> float:
    """Return by what factor a layer multiplies a gradient that passes back through it, on average.

    ``sqrt(E ‖Jᵀu‖² / E ‖u‖²) = ‖J‖_F / sqrt(outputs)`` for random normal u: the chain rule's factor.

    Args:
        function: the layer.
        inputs: what reaches it.
        probes: random vectors that the mean is taken over.
        seed: of them.

    Raises:
        ArgumentError: if ``probes`` is not a positive integer.
    """
    integer("probes", probes, at_least=1)
    draw = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        point = inputs.detach().clone().requires_grad_()
        outputs = function(point)
    before = after = 0.0
    for _ in range(probes):
        u = torch.randn(outputs.shape, generator=draw).to(outputs)
        (pulled,) = torch.autograd.grad(outputs, point, u, retain_graph=True)
        before, after = before + float(u.square().sum()), after + float(pulled.square().sum())
    return math.sqrt(after / before)


def _orthogonal(vector: Tensor, basis: list[Tensor]) -> Tensor:
    """Return ``vector`` made orthogonal to the rows of ``basis``; Gram-Schmidt, twice."""
    if basis:
        rows = torch.stack(basis)
        for _ in range(2):
            vector = vector - (rows @ vector) @ rows
    return vector
