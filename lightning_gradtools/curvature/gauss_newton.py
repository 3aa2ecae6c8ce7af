"""The Gauss-Newton matrix: the Hessian without the curvature of the network itself."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.curvature.operator import CurvatureOperator, differentiate
from lightning_gradtools.curvature.parameter_space import ParameterSpace


class GaussNewton(CurvatureOperator):
    """Products ``Jᵀ (∂²ℓ/∂z²) J v`` on graphs that are built once (Schraudolph 2002).

    J is the Jacobian of the outputs z with respect to the parameters. Where ℓ is convex in z the matrix has
    no negative eigenvalue. For cross-entropy on logits and for squared error it is the Fisher matrix of the
    model's own distribution (Martens 2020, "New Insights and Perspectives on the Natural Gradient Method").

    Args:
        outputs_fn: returns the outputs z, a tensor of any shape, on fixed data.
        loss_of: maps outputs to the scalar loss.
        parameters: of the block that is wanted.

    Raises:
        ArgumentError: if the outputs do not depend on a parameter; see :class:`ParameterSpace`.
        RuntimeError: under reentrant activation checkpointing, and if the backward pass of an operation is marked
            ``once_differentiable``.
    """

    name = "Gauss-Newton"
    product_cost = 4 / 3
    gradients_spent = 0.0

    def __init__(
        self, outputs_fn: Callable[[], Tensor], loss_of: Callable[[Tensor], Tensor], parameters: Iterable[Tensor]
    ) -> None:
        super().__init__(ParameterSpace(parameters))
        with torch.enable_grad():
            self._outputs = outputs_fn()
            if not self._outputs.requires_grad:
                raise ArgumentError("outputs_fn(): its result does not depend on a parameter that requires a gradient")
            self._leaf = self._outputs.detach().requires_grad_()
            (self._slope,) = torch.autograd.grad(loss_of(self._leaf), self._leaf, create_graph=True)
            # Jᵀu as a function of u, so that its derivative is J
            self._dual = torch.zeros_like(self._leaf, requires_grad=True)
            self._pulled = differentiate(self._outputs, self.space.parameters, self._dual, create_graph=True)
        self._flat = self.space.flatten(self._pull(self._slope.detach()))
        self.gradients_spent = 2.0

    def matvec(self, vector: Tensor) -> Tensor:
        """Return the product with a vector (n,)."""
        self.gradients_spent += self.product_cost
        pairs = [(p, v) for p, v in zip(self._pulled, self.space.unflatten(vector), strict=True) if p.requires_grad]
        pulled, along = zip(*pairs, strict=True)
        (pushed,) = torch.autograd.grad(pulled, self._dual, along, retain_graph=True)
        if not self._slope.requires_grad:  # the loss is linear in the outputs
            return torch.zeros_like(vector)
        (curved,) = torch.autograd.grad(self._slope, self._leaf, pushed, retain_graph=True)
        return self.space.flatten(self._pull(curved))

    def gradient(self) -> Tensor | None:
        """Return the loss's gradient."""
        return self._flat

    def _pull(self, cotangent: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(
            self._outputs,
            self.space.parameters,
            cotangent,
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
