"""The Hessian of a loss, by double backward or by forward over reverse."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decomposition_table
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

from lightning_gradtools.curvature.finite_difference import Displacement
from lightning_gradtools.curvature.operator import CurvatureOperator, LossFunction, differentiate, evaluate, is_smooth
from lightning_gradtools.curvature.parameter_space import ParameterSpace
from lightning_gradtools.pytree import tree_map

_WRITTEN_OUT = {
    operation: decomposition_table[operation]
    for operation in (
        torch.ops.aten.mse_loss_backward.default,
        torch.ops.aten.huber_loss_backward.default,
        torch.ops.aten.soft_margin_loss_backward.default,
    )
}


class RetainedHessian(CurvatureOperator):
    """Products by one more backward pass through a gradient graph that is built once and kept.

    ``H v = ∂(gᵀv)/∂w`` with ``g(w)`` recorded (Pearlmutter 1994). The fastest on most models; holds the
    activations of a forward and a backward pass for as long as it lives.

    Args:
        loss_fn: returns the scalar loss on fixed data.
        parameters: of the block of the Hessian that is wanted.

    Raises:
        ArgumentError: see :func:`~lightning_gradtools.curvature.operator.evaluate` and :class:`ParameterSpace`.
        RuntimeError: torch's own, if an operation has no second derivative; ours, if torch would take it for zero.
    """

    name = "retained graph"
    product_cost = 2.0
    gradients_spent = 0.0

    def __init__(self, loss_fn: LossFunction, parameters: Iterable[Tensor]) -> None:
        super().__init__(ParameterSpace(parameters))
        self._loss_fn = loss_fn
        self._gradients = _gradient_graph(loss_fn, self.space.parameters)
        self.gradients_spent = 1.0
        self._joined = _joined(self._gradients, self.space)
        self._flat = self.space.flatten(self._gradients) if self._joined is None else self._joined.detach()

    def matvec(self, vector: Tensor) -> Tensor:
        """Return the product with a vector (n,)."""
        self.gradients_spent += self.product_cost
        if self._joined is None:
            return _second_derivative(self._gradients, self.space, vector, retain=True)
        return self.space.flatten(
            torch.autograd.grad(self._joined, self.space.parameters, vector, retain_graph=True, materialize_grads=True)
        )

    def gradient(self) -> Tensor | None:
        """Return the gradient that the graph was built for."""
        return self._flat

    def is_smooth(self) -> bool:
        """Say whether no operation of the loss has a kink, as far as its graph tells."""
        return is_smooth(self._gradients)

    def displacement(self) -> Displacement:
        """Return what takes gradients beside the point of the graph."""
        return Displacement(self._loss_fn, self.space)


class FreshHessian(CurvatureOperator):
    """Products by double backward through a graph built anew each time: slower, and holds nothing between.

    Arguments and errors are those of :class:`RetainedHessian`.
    """

    name = "fresh graph"
    product_cost = 3.0
    gradients_spent = 0.0

    def __init__(self, loss_fn: LossFunction, parameters: Iterable[Tensor]) -> None:
        super().__init__(ParameterSpace(parameters))
        self._loss_fn = loss_fn

    def matvec(self, vector: Tensor) -> Tensor:
        """Return the product with a vector (n,)."""
        self.gradients_spent += self.product_cost
        gradients = _gradient_graph(self._loss_fn, self.space.parameters)
        return _second_derivative(gradients, self.space, vector, retain=False)


class LinearizedHessian(CurvatureOperator):
    """Products by ``torch.func.linearize`` of the gradient, traced once and reused: forward over reverse.

    The fastest on some convolutional networks; its trace holds several times what a retained graph does.
    ``loss_fn`` needs no functional form: while it is traced, wherever an operation reads a parameter it is
    handed the traced value instead.

    The gradient is traced by itself first, without operations in place: ``linearize`` folds what does not depend on
    the vector into constants, and an operation in place would change these from product to product (torch 2.13, as with
    ``binary_cross_entropy_with_logits``). The backward passes of some losses are written out in elementary operations,
    because torch cannot differentiate them forward; for ``mse_loss`` it ends the interpreter in place of an error.

    Arguments and errors are those of :class:`RetainedHessian`.
    """

    name = "linearize"
    product_cost = 2.0
    gradients_spent = 0.0

    def __init__(self, loss_fn: LossFunction, parameters: Iterable[Tensor]) -> None:
        super().__init__(ParameterSpace(parameters))
        originals = self.space.parameters

        def loss(values: tuple[Tensor, ...]) -> Tensor:
            with _Substitution(originals, values):
                return evaluate(loss_fn)

        point = tuple(parameter.detach() for parameter in originals)
        in_place_free = torch.func.functionalize(torch.func.grad(loss))
        gradient = make_fx(in_place_free, decomposition_table=_WRITTEN_OUT)(point)
        gradients, self._product = torch.func.linearize(gradient, point)
        self.gradients_spent = 3.0
        self._flat = self.space.flatten(gradients)

    def matvec(self, vector: Tensor) -> Tensor:
        """Return the product with a vector (n,)."""
        self.gradients_spent += self.product_cost
        with torch.no_grad():
            return self.space.flatten(self._product(tuple(self.space.unflatten(vector))))

    def gradient(self) -> Tensor | None:
        """Return the gradient that was linearised."""
        return self._flat


class _Substitution(TorchFunctionMode):
    """Within it, operations that are given one of ``originals`` get the value in its place."""

    def __init__(self, originals: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        super().__init__()
        self._values = {id(original): value for original, value in zip(originals, values, strict=True)}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(self._replace, (args, kwargs or {}))
        return func(*args, **kwargs)

    def _replace(self, leaf: Any) -> Any:
        return self._values.get(id(leaf), leaf) if isinstance(leaf, Tensor) else leaf


def _gradient_graph(loss_fn: LossFunction, parameters: list[Tensor]) -> tuple[Tensor, ...]:
    return differentiate(evaluate(loss_fn), parameters, create_graph=True)


def _joined(gradients: Sequence[Tensor], space: ParameterSpace) -> Tensor | None:
    """Return gradients as one vector (n,) with its graph, or None where they are of several kinds or constant.

    One output with one cotangent: taking a vector apart for every product costs a small network a tenth of one.
    """
    alike = all(g.dtype == space.dtype and g.device == space.device for g in gradients) and not space.sharded
    if not alike or not any(gradient.requires_grad for gradient in gradients):
        return None
    with torch.enable_grad():
        return torch.cat([gradient.reshape(-1) for gradient in gradients])


def _second_derivative(gradients: Sequence[Tensor], space: ParameterSpace, vector: Tensor, *, retain: bool) -> Tensor:
    pairs = [(g, v) for g, v in zip(gradients, space.unflatten(vector), strict=True) if g.requires_grad]
    if not pairs:  # the loss is linear
        return torch.zeros_like(vector)
    outputs, along = zip(*pairs, strict=True)
    columns = torch.autograd.grad(
        outputs, space.parameters, along, retain_graph=retain, allow_unused=True, materialize_grads=True
    )
    return space.flatten(columns)
