"""Which way to multiply with a Hessian: what can work here, and of that what is fastest."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from lightning_gradtools.arguments import one_of
from lightning_gradtools.curvature.composition import MeanOverBatches, MeanOverRanks
from lightning_gradtools.curvature.finite_difference import Displacement, FiniteDifferenceHessian
from lightning_gradtools.curvature.hessian import FreshHessian, LinearizedHessian, RetainedHessian
from lightning_gradtools.curvature.operator import CurvatureOperator, LossFunction, WrappedOperator, evaluate
from lightning_gradtools.curvature.parameter_space import ParameterSpace
from lightning_gradtools.distributed import is_distributed, mean_over_ranks_of, on_all_ranks

_T = TypeVar("_T")

METHODS: dict[str, Callable[[LossFunction, Iterable[Tensor]], CurvatureOperator]] = {
    "retained": RetainedHessian,
    "linearize": LinearizedHessian,
    "fresh": FreshHessian,
    "finite_difference": FiniteDifferenceHessian,
}

# A retained graph and a product on it held 4 times the peak of one gradient on a GPT of 0.8M parameters.
_GRAPH_GROWTH = 4.0


def hessian_operator(
    loss_fn: LossFunction | Sequence[LossFunction],
    params: Iterable[Tensor],
    *,
    method: str = "auto",
    memory: int | None = None,
    average_ranks: bool = False,
) -> CurvatureOperator:
    """Return the Hessian as an operator; the arguments are those of ``hessian_spectrum``.

    Raises:
        ArgumentError: if ``method`` is unknown, or loss or parameters cannot work.
        RankFailure: with ``average_ranks``, if another rank has no operator.
    """
    one_of("method", method, ["auto", *METHODS])
    losses, parameters = [loss_fn] if callable(loss_fn) else list(loss_fn), list(params)

    if method == "auto":  # where ranks meet at each thing tried
        automatic = AutomaticHessian(losses, parameters, memory, average_ranks)
        return MeanOverRanks(automatic) if average_ranks else automatic

    def local() -> CurvatureOperator:
        return MeanOverBatches([METHODS[method](loss, parameters) for loss in losses])

    return MeanOverRanks(on_all_ranks(local, ParameterSpace(parameters).device)) if average_ranks else local()


class AutomaticHessian(WrappedOperator):
    """A Hessian that finds out at its first product whether a second derivative exists.

    It keeps a gradient graph: by operation count a product costs 2 gradients there, as with central differences,
    and has no truncation error. Where that cannot work it takes finite differences: if parameters are sharded, if a
    second derivative does not exist (compiled graphs, flash attention, reentrant checkpointing,
    ``once_differentiable``), or if its graph does not fit. Where the loss has no kinks it also offers differences
    to one side, for one gradient, to an iteration that can do with less exact products
    (:class:`~lightning_gradtools.curvature.relaxation.RelaxedProducts`).

    It times nothing: a choice by the clock would make values depend on the load of the machine, and no timing would
    change it. ``linearize`` would have to be traced first, which a spectrum never wins back: that cost at least 36
    gradients and saved at most 0.3 a product (docs/curvature.md). A fresh graph needs nearly the memory of a retained
    one for half as much work again. Central differences have a truncation error, differences to one side a larger one
    at half the cost.

    Args:
        losses: one for each batch.
        params: of the block wanted.
        memory: bytes that the graphs may hold in all; None is no limit but what the device has.
        agree: whether all ranks must choose alike.

    Attributes:
        reason: why products are made as they are, in words.
    """

    def __init__(
        self, losses: Sequence[LossFunction], params: Sequence[Tensor], memory: int | None = None, agree: bool = False
    ) -> None:
        self._losses, self._params, self._agree = losses, params, agree
        self._tried = False
        self._aside = 0.0
        self._displacements: list[Displacement] | None = None
        self.reason = "a second derivative exists"
        self._parts: list[RetainedHessian] | list[FiniteDifferenceHessian] = []
        super().__init__(self._first(memory))

    @property
    def name(self) -> str:
        """The name of what makes the products, and why that does."""
        return f"{self._operator.name} ({self.reason})"

    @property
    def gradients_spent(self) -> float:
        """All gradients spent, those on differences and on a failed attempt too."""
        return self._aside + self._operator.gradients_spent

    def matvec(self, vector: Tensor) -> Tensor:
        """Return the product with a vector (n,)."""
        if self._tried:
            return self._operator.matvec(vector)
        self._tried = True
        product, problem = self._attempt(lambda: self._operator.matvec(vector))
        if product is not None:
            return product
        self._aside += self._operator.gradients_spent
        self._operator = self._differences(problem)
        return self._operator.matvec(vector)

    def one_sided(self, vector: Tensor, step: float) -> Tensor | None:
        """Return the difference of two gradients, one of them at hand; None if the loss has kinks."""
        if self._displacements is None:
            smooth = all(part.is_smooth() for part in self._parts)
            self._displacements = [part.displacement() for part in self._parts] if smooth else []
        if not self._displacements or (here := self.gradient()) is None:
            return None
        self._aside += len(self._displacements)
        there = [displacement.gradient(vector, step) for displacement in self._displacements]
        return (sum(there[1:], start=there[0]) / len(there) - here) / step

    def _first(self, memory: int | None) -> CurvatureOperator:
        """Return what makes the first product."""
        if any(map(is_distributed, self._params)):
            return self._differences("parameters are sharded")
        if memory is not None:
            needed: list[float] = []

            def too_large() -> bool:
                needed.append(_GRAPH_GROWTH * sum(saved_bytes(loss) for loss in self._losses))
                return needed[0] > memory

            self._aside += len(self._losses) / 3
            if self._anywhere(too_large):
                return self._differences(f"a graph would hold about {needed[0] / 2**20:.0f} MiB")
        graph, problem = self._attempt(self._graph)
        return self._differences(problem) if graph is None else graph

    def _graph(self) -> CurvatureOperator:
        self._parts = [RetainedHessian(loss, self._params) for loss in self._losses]
        return MeanOverBatches(self._parts)

    def _differences(self, reason: str) -> CurvatureOperator:
        self.reason, self._tried = reason, True
        self._parts = [FiniteDifferenceHessian(loss, self._params) for loss in self._losses]
        return MeanOverBatches(self._parts)

    def _attempt(self, work: Callable[[], _T]) -> tuple[_T | None, str]:
        """Return what ``work`` returns and nothing; or None and the reason, if it has none on any rank."""
        found: list[_T] = []
        problem = ""

        def fails() -> bool:
            nonlocal problem
            try:
                found.append(work())
            except RuntimeError as error:  # of which torch.OutOfMemoryError and NotImplementedError are kinds
                problem = str(error).strip().split("\n")[0] or type(error).__name__
            return bool(problem)

        if self._anywhere(fails):
            return None, f"no second derivative: {problem or 'on another rank'}"
        return found[0], ""

    def _anywhere(self, test: Callable[[], bool]) -> bool:
        """Say whether ``test`` holds on any of the ranks that must choose alike."""
        if not self._agree:
            return test()
        zero = torch.zeros((), device=ParameterSpace(self._params).device)
        return bool(mean_over_ranks_of(lambda: zero + test(), zero) > 0)


def saved_bytes(loss_fn: LossFunction) -> int:
    """Return how much a forward pass keeps for its backward pass, in bytes."""
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        evaluate(loss_fn)
    return sum(seen.values())
