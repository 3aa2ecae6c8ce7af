"""Which way to multiply with a Hessian: what can work here, and of that what is fastest."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from lightning_gradtools.arguments import one_of
from lightning_gradtools.curvature.composition import MeanOverBatches, MeanOverRanks
from lightning_gradtools.curvature.finite_difference import Displacement, FiniteDifferenceHessian
from lightning_gradtools.curvature.hessian import FreshHessian, LinearizedHessian, RetainedHessian
from lightning_gradtools.curvature.operator import CurvatureOperator, LossFunction, evaluate
from lightning_gradtools.distributed import any_rank

METHODS: dict[str, Callable[[LossFunction, Iterable[Tensor]], CurvatureOperator]] = {
    "retained": RetainedHessian,
    "linearize": LinearizedHessian,
    "fresh": FreshHessian,
    "finite_difference": FiniteDifferenceHessian,
}

# A retained graph and a product on it held 3.7 times the peak of one gradient on a GPT of 0.8M parameters.
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
    """
    one_of("method", method, ["auto", *METHODS])
    losses, parameters = [loss_fn] if callable(loss_fn) else list(loss_fn), list(params)
    operator: CurvatureOperator
    if method == "auto":
        operator = AutomaticHessian(losses, parameters, memory, average_ranks)
    else:
        operator = MeanOverBatches([METHODS[method](loss, parameters) for loss in losses])
    return MeanOverRanks(operator) if average_ranks else operator


class AutomaticHessian:
    """A Hessian that finds out at its first product whether a second derivative exists.

    It keeps a gradient graph: by operation count a product costs 2 gradients there, as with central
    differences, and has no truncation error. Where that cannot work it takes finite differences: if
    parameters are sharded, if a second derivative does not exist (compiled graphs, flash attention, reentrant
    checkpointing), or if its graph does not fit. Where the loss has no kinks it also offers differences to one side,
    for one gradient, to an iteration that can do with less exact products
    (:class:`~lightning_gradtools.curvature.relaxation.RelaxedProducts`).

    It times nothing: a choice by the clock would make values depend on the load of the machine, and no timing would
    change it. ``linearize`` would have to be traced first: that cost 28 to 1,500 gradients on four networks, and saved
    at most 0.3 a product, on one of them (the rows "linearize" of ``scripts/bench_curvature.py``), so that a
    spectrum of some 15 products never wins it back. A fresh graph needs nearly the memory of a retained one for
    half as much work again. Products on a retained graph cost 1.2 to 2.1 gradients there, central differences 2 and a
    truncation error, differences to one side 1.1 and a larger one.

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
        self._operator: CurvatureOperator | None = None
        if any(isinstance(parameter, DTensor) for parameter in params):
            self._fall_back("parameters are sharded")
        elif memory is not None:
            needed = _GRAPH_GROWTH * sum(saved_bytes(loss) for loss in losses)
            self._aside += len(losses) / 3
            if self._any(needed > memory):
                self._fall_back(f"a graph would hold about {needed / 2**20:.0f} MiB")
        if self._operator is None:
            self._attempt(lambda: None)
        self.space = self._now.space

    @property
    def _now(self) -> CurvatureOperator:
        if self._operator is None:
            raise RuntimeError("no operator yet")
        return self._operator

    @property
    def name(self) -> str:
        """Return the name of what makes the products, and why that does."""
        return f"{self._now.name} ({self.reason})"

    @property
    def product_cost(self) -> float:
        """Return that of what makes the products."""
        return self._now.product_cost

    @property
    def gradients(self) -> float:
        """Return all gradients spent, those on differences and on a failed attempt too."""
        return self._aside + self._now.gradients

    @property
    def error(self) -> float:
        """Return that of what makes the products."""
        return self._now.error

    def __call__(self, vector: Tensor) -> Tensor:
        """Return the product with a vector (n,)."""
        if self._tried:
            return self._now(vector)
        product = self._attempt(lambda: self._now(vector))
        self._tried = True
        return self._now(vector) if product is None else product

    def gradient(self) -> Tensor | None:
        """Return the gradient."""
        return self._now.gradient()

    def one_sided(self, vector: Tensor, step: float) -> Tensor | None:
        """Return the difference of two gradients, one of them at hand; None if the loss has kinks."""
        if self._displacements is None:
            smooth = all(part.is_smooth() for part in self._parts)
            self._displacements = [] if self._any(not smooth) else [part.displacement() for part in self._parts]
        here = self.gradient()
        if not self._displacements or here is None:
            return None
        self._aside += len(self._displacements)
        there = [displacement.gradient(vector, step) for displacement in self._displacements]
        return (sum(there[1:], start=there[0]) / len(there) - here) / step

    def _attempt(self, work: Callable[[], Tensor | None]) -> Tensor | None:
        """Build the graph if there is none, and do ``work``; fall back if either fails on any rank."""
        problem, product = "", None
        try:
            if self._operator is None:
                self._parts = [RetainedHessian(loss, self._params) for loss in self._losses]
                self._operator = MeanOverBatches(self._parts)
            product = work()
        except RuntimeError as error:  # of which torch.OutOfMemoryError and NotImplementedError are kinds
            problem = str(error).strip().split("\n")[0]
        if not self._any(bool(problem)):
            return product
        if self._operator is not None:
            self._aside += self._operator.gradients
        self._fall_back(f"no second derivative: {problem or 'on another rank'}")
        return None

    def _fall_back(self, reason: str) -> None:
        self.reason, self._tried = reason, True
        self._parts = [FiniteDifferenceHessian(loss, self._params) for loss in self._losses]
        self._operator = MeanOverBatches(self._parts)

    def _any(self, flag: bool) -> bool:
        return bool(any_rank(torch.tensor(float(flag)))) if self._agree else flag


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
