"""Operators made of others: the mean over batches or ranks, and a change of metric."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.curvature.operator import CurvatureOperator, one_sided
from lightning_gradtools.curvature.parameter_space import ParameterSpace
from lightning_gradtools.distributed import mean_over_ranks


class MeanOverBatches:
    """The mean of operators on the same parameters, one for each batch.

    Args:
        operators: at least one.

    Raises:
        ArgumentError: if there is none.
    """

    def __init__(self, operators: Sequence[CurvatureOperator]) -> None:
        if not operators:
            raise ArgumentError("operators=[]: must be at least one")
        self._operators = list(operators)
        self.space: ParameterSpace = operators[0].space

    @property
    def name(self) -> str:
        """Return that of the first, and how many there are."""
        count = len(self._operators)
        return self._operators[0].name if count == 1 else f"{self._operators[0].name}, {count} batches"

    @property
    def product_cost(self) -> float:
        """Return the sum over the batches."""
        return sum(operator.product_cost for operator in self._operators)

    @property
    def gradients(self) -> float:
        """Return the sum over the batches."""
        return sum(operator.gradients for operator in self._operators)

    @property
    def error(self) -> float:
        """Return the largest of any batch."""
        return max(operator.error for operator in self._operators)

    def __call__(self, vector: Tensor) -> Tensor:
        """Return the product with a vector (n,)."""
        if len(self._operators) == 1:
            return self._operators[0](vector)
        total = self._operators[0](vector)
        for operator in self._operators[1:]:
            total = total + operator(vector)
        return total / len(self._operators)

    def gradient(self) -> Tensor | None:
        """Return the mean gradient, unless one is not at hand."""
        if len(self._operators) == 1:
            return self._operators[0].gradient()
        found = [operator.gradient() for operator in self._operators]
        known = [gradient for gradient in found if gradient is not None]
        return torch.stack(known).mean(0) if len(known) == len(found) else None


class MeanOverRanks:
    """The mean of an operator that every rank has on its own data: one flat all-reduce for each product.

    Args:
        operator: on unsharded parameters that are the same on every rank.
    """

    def __init__(self, operator: CurvatureOperator) -> None:
        self._operator = operator
        self.space: ParameterSpace = operator.space
        # What decisions are made by has to be the same on all ranks.
        self.gradients, self.error = operator.gradients, operator.error
        self._flat: Tensor | None = None

    @property
    def name(self) -> str:
        """Return that of each rank's."""
        return f"{self._operator.name}, averaged over ranks"

    @property
    def product_cost(self) -> float:
        """Return that of each rank's."""
        return self._operator.product_cost

    def __call__(self, vector: Tensor) -> Tensor:
        """Return the product with a vector (n,)."""
        return self._mean(self._operator(vector))

    def one_sided(self, vector: Tensor, step: float) -> Tensor | None:
        """Return the mean of that of each rank's, if it has one."""
        local = one_sided(self._operator, vector, step)
        return None if local is None else self._mean(local)

    def _mean(self, product: Tensor) -> Tensor:
        told = product.new_tensor([self._operator.gradients, self._operator.error])
        mean = mean_over_ranks(torch.cat([product, told]))
        self.gradients, self.error = mean[-2:].tolist()
        return mean[:-2]

    def gradient(self) -> Tensor | None:
        """Return the mean gradient."""
        if self._flat is None and (local := self._operator.gradient()) is not None:
            self._flat = mean_over_ranks(local)
        return self._flat


class CountedProducts:
    """Another operator, and how many products it made.

    Args:
        operator: the other one.

    Attributes:
        products: their number.
    """

    def __init__(self, operator: CurvatureOperator) -> None:
        self._operator = operator
        self.space: ParameterSpace = operator.space
        self.products = 0

    @property
    def name(self) -> str:
        """Return that of the other."""
        return self._operator.name

    @property
    def product_cost(self) -> float:
        """Return that of the other."""
        return self._operator.product_cost

    @property
    def gradients(self) -> float:
        """Return that of the other."""
        return self._operator.gradients

    @property
    def error(self) -> float:
        """Return that of the other."""
        return self._operator.error

    def __call__(self, vector: Tensor) -> Tensor:
        """Return the product with a vector (n,)."""
        self.products += 1
        return self._operator(vector)

    def one_sided(self, vector: Tensor, step: float) -> Tensor | None:
        """Return that of the other, which counts as a product."""
        product = one_sided(self._operator, vector, step)
        self.products += product is not None
        return product

    def gradient(self) -> Tensor | None:
        """Return that of the other."""
        return self._operator.gradient()


class Preconditioned:
    """``P^-½ A P^-½`` for a diagonal P > 0: the curvature that an adaptive optimizer sees.

    It has the eigenvalues of ``P^-1 A``, and stays symmetric.

    Args:
        operator: A.
        diagonal: (n,) P.

    Raises:
        ArgumentError: if ``diagonal`` is not finite and positive.
    """

    def __init__(self, operator: CurvatureOperator, diagonal: Tensor) -> None:
        if not bool((torch.isfinite(diagonal) & (diagonal > 0)).all()):
            raise ArgumentError("diagonal: must be finite and positive everywhere")
        self._operator = operator
        self._root = diagonal.rsqrt()
        self.space: ParameterSpace = operator.space

    @property
    def name(self) -> str:
        """Return that of A."""
        return f"{self._operator.name}, preconditioned"

    @property
    def product_cost(self) -> float:
        """Return that of A."""
        return self._operator.product_cost

    @property
    def gradients(self) -> float:
        """Return what A spent."""
        return self._operator.gradients

    @property
    def error(self) -> float:
        """Return that of A."""
        return self._operator.error

    def __call__(self, vector: Tensor) -> Tensor:
        """Return the product with a vector (n,)."""
        return self._root * self._operator(self._root * vector)

    def one_sided(self, vector: Tensor, step: float) -> Tensor | None:
        """Return that of A in the coordinates of the new metric, if it has one."""
        product = one_sided(self._operator, self._root * vector, step)
        return None if product is None else self._root * product

    def gradient(self) -> Tensor | None:
        """Return the gradient in the coordinates of the new metric."""
        found = self._operator.gradient()
        return None if found is None else self._root * found


def adam_preconditioner(space: ParameterSpace, optimizer: torch.optim.Optimizer) -> Tensor:
    r"""Return the diagonal P (n,) by which Adam's step divides: ``sqrt(v / (1 - β₂ᵗ)) + ε``.

    After Cohen et al. 2022, "Adaptive Gradient Methods at the Edge of Stability", equation 2, with PyTorch's
    place of ε. The bias correction of the first moment scales the step, not the metric, and is left out.

    Args:
        space: of the parameters.
        optimizer: any whose state has second moments as ``exp_avg_sq``.

    Raises:
        ArgumentError: if a parameter has none, as before the first step.
    """
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    parts = []
    for parameter in space.parameters:
        state = optimizer.state.get(parameter, {})
        second = state.get("max_exp_avg_sq", state.get("exp_avg_sq"))
        if second is None:
            raise ArgumentError(
                f"optimizer={type(optimizer).__name__}: has no second moments (exp_avg_sq) of every parameter yet"
            )
        group = groups[id(parameter)]
        step = float(state["step"])
        beta2, eps = group["betas"][1], group["eps"]
        parts.append((second / (1 - beta2**step)).sqrt() + eps)
    return space.flatten(parts)
