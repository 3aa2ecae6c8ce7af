"""Products of an iteration that need not all be exact: after the first few, differences of two gradients do.

An error in a late product hardly reaches the eigenvalues that are wanted: their vectors have little of the late
directions, or are not wanted to more than the tolerance (Simoncini & Szyld 2003, "Theory of Inexact Krylov Subspace
Methods"; van den Eshof & Sleijpen 2004).
"""

import math

import torch
from torch import Tensor

from lightning_gradtools.curvature.budget import Meter
from lightning_gradtools.curvature.operator import CurvatureOperator

_EXACT = 3  # products before the first difference: they hold most of the largest eigenvectors
# By how much a step moves the gradient, in units of √eps of its length. The best was 1 to 12 on all networks tried but
# those trained to a tiny loss, where none would do (docs/curvature.md).
_MOVED = 4.0
# The largest error of a difference, in units of the tolerance and the length of the product. Most of an error lies
# outside the basis, where it counts by its square: at 1, five values of a GPT cost two thirds more (docs/curvature.md).
_ALLOWED = 2.0


class RelaxedProducts:
    """Products for a Lanczos iteration: exact ones, then one-sided differences ``(g(w + h v) - g(w)) / h``.

    A difference costs one gradient where a product costs two. Its error is measured once, against the last of the
    exact products, and taken to be at most twice that afterwards, which holds as long as rounding, not curvature that
    changes along v, makes most of it. So h is short: it moves the gradient by 4 √eps of its length. If the error is
    larger than twice the tolerance, as it is near a minimum, where the gradient is mostly rounding, or if the
    operator has no differences, all products are exact.

    Args:
        operator: makes both kinds.
        rtol: relative tolerance of the eigenvalues; below 2 √eps (7e-4 in float32) no difference is tried.
        meter: allows the gradient that measures the error.

    Attributes:
        differences: those made for the iteration; the ones that measured the error are not among them.
    """

    def __init__(self, operator: CurvatureOperator, rtol: float, meter: Meter) -> None:
        self._operator, self._rtol, self._meter = operator, rtol, meter
        self._unit = math.sqrt(torch.finfo(operator.space.dtype).eps)
        self._exact = 0
        self._step = self._error = 0.0
        self.differences = 0

    def __call__(self, vector: Tensor) -> tuple[Tensor, float]:
        """Return the product with a unit vector (n,), and an estimate of the norm of its error beyond rounding."""
        if self._step and (product := self._operator.one_sided(vector, self._step)) is not None:
            self.differences += 1
            return product, self._error
        product = self._operator.matvec(vector)
        self._exact += 1
        if self._exact == _EXACT and self._rtol >= 2 * self._unit and self._meter.affords_product():
            self._calibrate(vector, product)
        return product, 0.0

    def account(self) -> str:
        """Return how many products were differences, in words to go after the name of the operator; or nothing."""
        return f", {self.differences} products by one-sided differences" if self.differences else ""

    def _calibrate(self, vector: Tensor, product: Tensor) -> None:
        """Measure the error of a difference along ``vector``, and take differences if it is within the tolerance."""
        space, gradient = self._operator.space, self._operator.gradient()
        size = space.norm(product)
        if gradient is None or not size > 0:
            return
        step = _MOVED * self._unit * space.norm(gradient) / size
        if not step > 0 or (rough := self._operator.one_sided(vector, step)) is None:
            return
        error = space.norm(rough - product)
        if error <= _ALLOWED * self._rtol * size:
            self._step, self._error = step, 2 * error
