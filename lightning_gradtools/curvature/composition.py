"""Operators made of others: the mean over batches or ranks, and a change of metric."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.curvature.operator import CurvatureOperator, WrappedOperator
from lightning_gradtools.curvature.parameter_space import ParameterSpace
from lightning_gradtools.distributed import mean_over_ranks_of


class MeanOverBatches(CurvatureOperator):
    """The mean of operators on the same parameters, one for each batch.

    Args:
        operators: at least one.

    Raises:
        ArgumentError: if there is none.
    """

    def __init__(self, operators: Sequence[CurvatureOperator]) -> None:
        if not operators:
            raise ArgumentError("operators=[]: must be at least one")
        super().__init__(operators[0].space)
        self._operators = list(operators)

    @property
    def name(self) -> str:
        """That of the first, and how many there are."""
        count = len(self._operators)
        return self._operators[0].name if count == 1 else f"{self._operators[0].name}, {count} batches"

    @property
    def product_cost(self) -> float:
        """The sum over the batches."""
        return sum(operator.product_cost for operator in self._operators)

    @property
    def gradients_spent(self) -> float:
        """The sum over the batches."""
        return sum(operator.gradients_spent for operator in self._operators)

    @property
    def error(self) -> float:
        """The largest of any batch."""
        return max(operator.error for operator in self._operators)

    def matvec(self, vector: Tensor) -> Tensor:
        """Return the product with a vector (n,)."""
        total = self._operators[0].matvec(vector)
        if len(self._operators) == 1:
            return total
        for operator in self._operators[1:]:
            total = total + operator.matvec(vector)
        return total / len(self._operators)

    def gradient(self) -> Tensor | None:
        """Return the mean gradient, unless one is not at hand."""
        if len(self._operators) == 1:
            return self._operators[0].gradient()
        found = [operator.gradient() for operator in self._operators]
        known = [gradient for gradient in found if gradient is not None]
        return torch.stack(known).mean(0) if len(known) == len(found) else None


class MeanOverRanks(WrappedOperator):
    """The mean of an operator that every rank has on its own data: one flat all-reduce for each product.

    What a rank does by itself may fail there alone, as when its memory is full. The reduction tells the others, and
    all ranks raise at the same product (:func:`~lightning_gradtools.distributed.mean_over_ranks_of`).

    Args:
        operator: on unsharded parameters that are the same on every rank.
    """

    def __init__(self, operator: CurvatureOperator) -> None:
        super().__init__(operator)
        # What decisions are made by has to be the same on all ranks.
        self._spent, self._error = operator.gradients_spent, operator.error
        self._flat: Tensor | None = None
        self._has_gradient: bool | None = None

    @property
    def name(self) -> str:
        """That of each rank's."""
        return f"{self._operator.name}, averaged over ranks"

    @property
    def gradients_spent(self) -> float:
        """The mean over ranks, as of the last reduction."""
        return self._spent

    @property
    def error(self) -> float:
        """The mean over ranks, as of the last reduction."""
        return self._error

    def matvec(self, vector: Tensor) -> Tensor:
        """Return the product with a vector (n,).

        Raises:
            RankFailure: if another rank's part failed; if this one's did, its own error.
        """
        return self._mean(lambda: self._operator.matvec(vector))[0]

    def one_sided(self, vector: Tensor, step: float) -> Tensor | None:
        """Return the mean of the differences (n,), if every rank has one; errors are those of a product."""
        product, everywhere = self._mean(lambda: self._operator.one_sided(vector, step))
        return product if everywhere else None

    def gradient(self) -> Tensor | None:
        """Return the mean gradient (n,), if every rank has one; errors are those of a product."""
        if self._has_gradient is None:
            self._flat, self._has_gradient = self._mean(self._operator.gradient)
        return self._flat if self._has_gradient else None

    def _mean(self, compute: Callable[[], Tensor | None]) -> tuple[Tensor, bool]:
        """Return the mean (n,) of what ``compute`` returns on each rank, and whether no rank's was None."""
        n = self.space.numel
        nothing = torch.zeros(1, dtype=self.dtype, device=self.device)

        def part() -> Tensor:
            found = compute()
            told = nothing.new_tensor([self._operator.gradients_spent, self._operator.error, found is not None])
            return torch.cat([nothing.expand(n) if found is None else found, told])

        mean = mean_over_ranks_of(part, nothing.expand(n + 3))
        self._spent, self._error, share = mean[n:].tolist()
        return mean[:n], share == 1.0


class CountedProducts(WrappedOperator):
    """Another operator, and how many products it made.

    Args:
        operator: the other one.

    Attributes:
        products: their number.
    """

    def __init__(self, operator: CurvatureOperator) -> None:
        super().__init__(operator)
        self.products = 0

    def matvec(self, vector: Tensor) -> Tensor:
        """Return the product with a vector (n,)."""
        self.products += 1
        return self._operator.matvec(vector)

    def one_sided(self, vector: Tensor, step: float) -> Tensor | None:
        """Return that of the other, which counts as a product."""
        product = self._operator.one_sided(vector, step)
        self.products += product is not None
        return product


class Preconditioned(WrappedOperator):
    """``P^-½ A P^-½`` for a diagonal P > 0: the curvature that an adaptive optimizer sees.

    It has the eigenvalues of ``P^-1 A``, and stays symmetric. Where P is infinite the optimizer takes no step: that
    coordinate is left out, by a row and a column of zeros.

    Args:
        operator: A.
        diagonal: (n,) P.

    Raises:
        ArgumentError: if ``diagonal`` is not positive.
    """

    def __init__(self, operator: CurvatureOperator, diagonal: Tensor) -> None:
        if not bool((diagonal > 0).all()):
            raise ArgumentError("diagonal: must be positive everywhere")
        super().__init__(operator)
        self._root = diagonal.rsqrt()

    @property
    def name(self) -> str:
        """That of A."""
        return f"{self._operator.name}, preconditioned"

    def matvec(self, vector: Tensor) -> Tensor:
        """Return the product with a vector (n,)."""
        return self._root * self._operator.matvec(self._root * vector)

    def one_sided(self, vector: Tensor, step: float) -> Tensor | None:
        """Return that of A in the coordinates of the new metric, if it has one."""
        product = self._operator.one_sided(self._root * vector, step)
        return None if product is None else self._root * product

    def gradient(self) -> Tensor | None:
        """Return the gradient in the coordinates of the new metric."""
        found = self._operator.gradient()
        return None if found is None else self._root * found


_NUMBERS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def adam_preconditioner(space: ParameterSpace, optimizer: torch.optim.Optimizer) -> Tensor:
    r"""Return the diagonal P (n,) by which Adam's step divides: ``sqrt(v / (1 - β₂ᵗ)) + ε``.

    After Cohen et al. 2022, "Adaptive Gradient Methods at the Edge of Stability", equation 2, with PyTorch's
    place of ε. The bias correction of the first moment scales the step, not the metric, and is left out.

    P is infinite for a parameter that the optimizer has not, or that never had a gradient and so has no second moments
    yet: Adam takes no step there, and :class:`Preconditioned` leaves it out.

    Args:
        space: of the parameters.
        optimizer: any whose state has second moments as ``exp_avg_sq``.

    Raises:
        ArgumentError: if no parameter has second moments, as before the first step, or if they are not numbers by
            themselves, as those of optimizers that quantise their state.
    """
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    parts, known = [], False
    for parameter in space.parameters:
        state = optimizer.state.get(parameter, {})
        second = state.get("max_exp_avg_sq", state.get("exp_avg_sq"))
        if second is None:
            parts.append(torch.full_like(parameter, math.inf))
            continue
        if not isinstance(second, Tensor) or second.dtype not in _NUMBERS or second.shape != parameter.shape:
            raise ArgumentError(
                f"optimizer={type(optimizer).__name__}: its second moments (exp_avg_sq) are quantised or packed"
                f" ({_form(second)} for a parameter of {_form(parameter)}): must be floating-point, one for each weight"
            )
        known = True
        group = groups[id(parameter)]
        step = float(state["step"])
        beta2, eps = group["betas"][1], group["eps"]
        parts.append((second.to(parameter.dtype) / (1 - beta2**step)).sqrt() + eps)
    if not known:
        raise ArgumentError(f"optimizer={type(optimizer).__name__}: has no second moments (exp_avg_sq) yet")
    return space.flatten(parts)


def _form(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
