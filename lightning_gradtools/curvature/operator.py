"""What every curvature operator offers: symmetric, and known only by its products with vectors."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.curvature.parameter_space import ParameterSpace, dense

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

LossFunction = Callable[[], Tensor]

# Nodes of autograd graphs whose slope jumps somewhere, or, compiled, cannot be known.
_KINKED = re.compile(
    "(Relu|Threshold|LeakyRelu|Prelu|Rrelu|Hard|Softshrink|Clamp|Abs|L1Loss|SmoothL1Loss|Huber|Max|Min|Amax|Amin|"
    "Aminmax|AdaptiveMax|FractionalMax|Topk|Sort|Median|Nanmedian|Kthvalue|Cummax|Cummin|Compiled)"
)


class CurvatureOperator(ABC):
    """A symmetric linear operator on a parameter space: what it is, is in its products with vectors.

    A subclass has ``matvec``, ``name``, ``product_cost`` and ``gradients_spent``; the rest has defaults.

    Args:
        space: the space it acts on.

    Attributes:
        space: the same.
    """

    def __init__(self, space: ParameterSpace) -> None:
        self.space = space

    @property
    @abstractmethod
    def name(self) -> str:
        """How results call it."""

    @property
    @abstractmethod
    def product_cost(self) -> float:
        """Gradients (one forward and backward) that a product costs, by operation count."""

    @property
    @abstractmethod
    def gradients_spent(self) -> float:
        """Gradients spent so far, by operation count."""

    @property
    def error(self) -> float:
        """Relative error of a product beyond rounding, as estimated so far; 0 for an exact one."""
        return 0.0

    @property
    def shape(self) -> tuple[int, int]:
        """(n, n), for the n entries that this rank has of a vector."""
        return self.space.numel, self.space.numel

    @property
    def dtype(self) -> torch.dtype:
        """That of vectors."""
        return self.space.dtype

    @property
    def device(self) -> torch.device:
        """That of vectors."""
        return self.space.device

    @abstractmethod
    def matvec(self, vector: Tensor) -> Tensor:
        """Return the product with a vector, (n,) to (n,)."""

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """Return the product with a vector (n,), or with each column of a matrix (n, k).

        Raises:
            ArgumentError: for another shape.
        """
        if vectors.ndim not in (1, 2) or len(vectors) != self.shape[1]:
            raise ArgumentError(
                f"operator @ tensor of shape {tuple(vectors.shape)}: must be ({self.shape[1]},) or ({self.shape[1]}, k)"
            )
        if vectors.ndim == 1:
            return self.matvec(vectors)
        products = torch.empty_like(vectors)
        for column in range(vectors.shape[1]):
            products[:, column] = self.matvec(vectors[:, column].contiguous())
        return products

    def as_scipy(self) -> "LinearOperator":
        """Return it as a ``scipy.sparse.linalg.LinearOperator`` on arrays of ``dtype``, for SciPy's solvers.

        Raises:
            ImportError: without SciPy, which nothing else here needs.
            ArgumentError: if parameters are sharded, of which SciPy would see a part.
        """
        from scipy.sparse.linalg import LinearOperator

        if self.space.sharded:
            raise ArgumentError("as_scipy(): parameters must not be sharded")

        def matvec(vector: Any) -> Any:
            on_device = torch.as_tensor(vector, dtype=self.dtype, device=self.device)
            return self.matvec(on_device.reshape(-1).contiguous()).cpu().numpy()

        dtype = torch.empty(0, dtype=self.dtype).numpy().dtype
        return LinearOperator(self.shape, matvec=matvec, rmatvec=matvec, dtype=dtype)

    def gradient(self) -> Tensor | None:
        """Return the loss's gradient (n,) if it costs at most one gradient, else None."""
        return None

    def one_sided(self, vector: Tensor, step: float) -> Tensor | None:  # noqa: ARG002
        """Return ``(g(w + step v) - g(w)) / step`` (n,) for a ``vector`` v (n,), or None if that is not to be had.

        It costs one gradient, and is less exact than a product.
        """
        return None


class WrappedOperator(CurvatureOperator):
    """An operator made of another one, and like it in all that a subclass does not change.

    Args:
        operator: the other one.
    """

    def __init__(self, operator: CurvatureOperator) -> None:
        super().__init__(operator.space)
        self._operator = operator

    @property
    def name(self) -> str:
        """That of the other."""
        return self._operator.name

    @property
    def product_cost(self) -> float:
        """That of the other."""
        return self._operator.product_cost

    @property
    def gradients_spent(self) -> float:
        """What the other spent."""
        return self._operator.gradients_spent

    @property
    def error(self) -> float:
        """That of the other."""
        return self._operator.error

    def matvec(self, vector: Tensor) -> Tensor:
        """Return the product with a vector (n,)."""
        return self._operator.matvec(vector)

    def gradient(self) -> Tensor | None:
        """Return the gradient (n,), if the other has it."""
        return self._operator.gradient()

    def one_sided(self, vector: Tensor, step: float) -> Tensor | None:
        """Return the one-sided difference (n,), if the other has it."""
        return self._operator.one_sided(vector, step)


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
    """Return the gradients of ``output`` (its product with ``along``), dense; zeros where it does not depend on one.

    Raises:
        RuntimeError: under reentrant activation checkpointing, where ``torch.autograd.grad`` takes every
            parameter inside for unused: only ``backward()`` reaches them; and with ``create_graph`` see
            :func:`require_derivative`.
    """
    found = torch.autograd.grad(output, parameters, along, create_graph=create_graph, allow_unused=True)
    if any(gradient is None for gradient in found) and _is_reentrant(output):
        raise RuntimeError("reentrant activation checkpointing has gradients in backward() only")
    if create_graph:
        require_derivative([gradient for gradient in found if gradient is not None])
    pairs = zip(found, parameters, strict=True)
    return tuple(torch.zeros_like(p) if gradient is None else dense(gradient) for gradient, p in pairs)


def require_derivative(gradients: Sequence[Tensor]) -> None:
    """Refuse the graph of ``gradients`` where something in it has no derivative, but would be taken for constant.

    A backward pass that is marked ``once_differentiable`` ends its graph in an error, which only ``backward()`` comes
    by: ``torch.autograd.grad`` goes where its inputs are, and leaves out what lies that way without a word.

    Raises:
        RuntimeError: if there is such a place.
    """
    if any(name == "torch::autograd::Error" for name in _operations(gradients)):
        raise RuntimeError("the backward pass of an operation is marked once_differentiable")


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
