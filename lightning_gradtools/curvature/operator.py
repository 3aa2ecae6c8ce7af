"""What every curvature operator offers: symmetric, and known only by its products with vectors."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.curvature.parameter_space import ParameterSpace

LossFunction = Callable[[], Tensor]

# Nodes of autograd graphs whose slope jumps somewhere, or, compiled, cannot be known.
_KINKED = re.compile(
    "(Relu|Threshold|LeakyRelu|Prelu|Rrelu|Hard|Softshrink|Clamp|Abs|L1Loss|SmoothL1Loss|Huber|Max|Min|Amax|Amin|"
    "Aminmax|AdaptiveMax|FractionalMax|Topk|Sort|Median|Nanmedian|Kthvalue|Cummax|Cummin|Compiled)"
)


class CurvatureOperator(Protocol):
    """A symmetric linear operator on a parameter space.

    Attributes:
        space: the space it acts on.
        name: how results call it.
        product_cost: gradients (one forward and backward) that a product costs, by operation count.
        gradients: gradients spent so far, by operation count.
        error: relative error of a product beyond rounding, as estimated so far; 0 for an exact one.
    """

    @property
    def space(self) -> ParameterSpace: ...  # noqa: D102

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def product_cost(self) -> float: ...  # noqa: D102

    @property
    def gradients(self) -> float: ...  # noqa: D102

    @property
    def error(self) -> float: ...  # noqa: D102

    def __call__(self, vector: Tensor) -> Tensor:
        """Return the product with a vector, (n,) to (n,)."""
        ...

    def gradient(self) -> Tensor | None:
        """Return the loss's gradient (n,) if it costs at most one gradient, else None."""
        ...


@runtime_checkable
class Differentiable(Protocol):
    """A curvature operator that may also have products for one gradient, less exact."""

    def one_sided(self, vector: Tensor, step: float) -> Tensor | None:
        """Return ``(g(w + step v) - g(w)) / step`` (n,) for a ``vector`` v (n,), or None if that is not to be had.

        The answer, whether there is one, is the same on all ranks.
        """
        ...


def one_sided(operator: CurvatureOperator, vector: Tensor, step: float) -> Tensor | None:
    """Return the one-sided difference of gradients along ``vector`` (n,) that ``operator`` has, or None."""
    return operator.one_sided(vector, step) if isinstance(operator, Differentiable) else None


def evaluate(loss_fn: LossFunction) -> Tensor:
    """Return the loss [] with its graph.

    Raises:
        ArgumentError: if it is not a scalar that depends on something which requires a gradient.
    """
    with torch.enable_grad():
        loss = loss_fn()
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        shown = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
        raise ArgumentError(f"loss_fn() returned {shown}: must be a scalar tensor that requires a gradient")
    return loss.reshape(())


def differentiate(
    output: Tensor, parameters: Sequence[Tensor], along: Tensor | None = None, *, create_graph: bool = False
) -> tuple[Tensor, ...]:
    """Return the gradients of ``output`` (its product with ``along``); zeros where it does not depend on one.

    Raises:
        RuntimeError: under reentrant activation checkpointing, where ``torch.autograd.grad`` takes every
            parameter inside for unused: only ``backward()`` reaches them.
    """
    found = torch.autograd.grad(output, parameters, along, create_graph=create_graph, allow_unused=True)
    if any(gradient is None for gradient in found) and _is_reentrant(output):
        raise RuntimeError("reentrant activation checkpointing has gradients in backward() only")
    pairs = zip(found, parameters, strict=True)
    return tuple(torch.zeros_like(p) if gradient is None else gradient for gradient, p in pairs)


def is_smooth(outputs: Sequence[Tensor]) -> bool:
    """Say whether the graph of ``outputs`` has no operation with a kink, and none that hides what it does."""
    return not any(_KINKED.match(name) for name in _operations(outputs))


def _is_reentrant(output: Tensor) -> bool:
    """Look for a reentrant checkpoint in the graph of ``output``."""
    return any(name == "CheckpointFunctionBackward" for name in _operations([output]))


def _operations(outputs: Sequence[Tensor]) -> Iterator[str]:
    """Walk the graph of ``outputs`` and name its nodes."""
    seen, waiting = set(), [output.grad_fn for output in outputs]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node.name()
        waiting.extend(following for following, _ in node.next_functions)
