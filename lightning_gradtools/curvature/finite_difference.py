"""The Hessian by central differences of the gradient: needs one derivative only, and works on sharded vectors."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lightning_gradtools.curvature.operator import CurvatureOperator, LossFunction, differentiate, evaluate, is_smooth
from lightning_gradtools.curvature.parameter_space import ParameterSpace
from lightning_gradtools.distributed import on_this_rank

_FACTOR = 4.0  # between two steps that are compared
_TRIALS = 12


class Displacement:
    """Gradients of a loss beside the point where its parameters are, and the way back.

    Parameters are put back from a copy, not by subtraction, so they are the same bit by bit afterwards.

    Args:
        loss_fn: returns the scalar loss on fixed data, the same at every call.
        space: of the parameters.

    Attributes:
        smooth: whether no operation of the loss has a kink, as far as its graph tells; None before the first gradient.
    """

    def __init__(self, loss_fn: LossFunction, space: ParameterSpace) -> None:
        self._loss_fn, self._space = loss_fn, space
        self.smooth: bool | None = None
        self._point = [_local(parameter).detach().clone() for parameter in space.parameters]
        self._accumulates = space.sharded  # FSDP reduces gradients only as they are accumulated

    def gradient(self, direction: Tensor | None = None, step: float = 0.0) -> Tensor:
        """Return the gradient (n,) at ``step`` times ``direction`` (n,) from the point, or there."""
        if direction is None:
            return self._gradient()
        try:
            self._move(direction, step)
            return self._gradient()
        finally:
            self._restore()

    def _loss(self) -> Tensor:
        loss = evaluate(self._loss_fn)
        if self.smooth is None:
            self.smooth = is_smooth([loss])
        return loss

    # Through `.data`, so that graphs which others hold do not take the weights for changed.
    def _move(self, direction: Tensor, step: float) -> None:
        along = self._space.unflatten(direction)
        for parameter, start, way in zip(self._space.parameters, self._point, along, strict=True):
            torch.add(start, way, alpha=step, out=_local(parameter).data)

    def _restore(self) -> None:
        for parameter, start in zip(self._space.parameters, self._point, strict=True):
            _local(parameter).data.copy_(start)

    def _gradient(self) -> Tensor:
        parameters = self._space.parameters
        if not self._accumulates:
            try:
                return self._space.flatten(differentiate(self._loss(), parameters))
            except RuntimeError as error:
                if "checkpoint" not in str(error).lower():
                    raise
                self._accumulates = True  # reentrant checkpointing knows only `backward()`
        kept = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        try:
            self._loss().backward()
            return self._space.flatten([torch.zeros_like(p) if p.grad is None else p.grad for p in parameters])
        finally:
            for parameter, before in zip(parameters, kept, strict=True):
                parameter.grad = before


class FiniteDifferenceHessian(CurvatureOperator):
    r"""Products ``H v ≈ (g(w + h v) - g(w - h v)) / 2h``, v of unit length, for where no second derivative exists.

    The step h has one rule. Rounding contributes an error ν/h, the same in every direction; truncation one
    that grows as h² with how fast curvature changes along v, which it does fastest where curvature is large.
    So h is chosen to move the gradient by the same amount in every direction: ``h = c / ‖H v‖``. c is found
    once, in the first direction: steps a factor 4 apart are compared until their difference is smallest. In
    later directions ‖H v‖ is first taken to be that of the product before, and the product is repeated if
    that was off by more than a factor of 6. On a GPT of 0.8M parameters in float32 the relative error is
    below 1e-3 along random directions and along the top eigenvector, where the right steps are a thousand
    times apart.

    Memory: the gradient's, and two vectors.

    Args:
        loss_fn: returns the scalar loss on fixed data, the same at every call.
        parameters: of the block of the Hessian that is wanted; they may be sharded (FSDP2).
        richardson: whether to extrapolate from h and h/2 (error h⁴, twice the cost).

    Raises:
        ArgumentError: see :func:`~lightning_gradtools.curvature.operator.evaluate` and
            :class:`ParameterSpace`.
    """

    name = "finite difference"
    product_cost = 2.0
    gradients_spent = 0.0
    error = 0.0

    def __init__(self, loss_fn: LossFunction, parameters: Iterable[Tensor], *, richardson: bool = False) -> None:
        super().__init__(ParameterSpace(parameters))
        if richardson:
            self.name, self.product_cost = "finite difference with Richardson extrapolation", 4.0
        self._richardson = richardson
        self._displacement = Displacement(loss_fn, self.space)
        self._moved = 0.0  # c: by how much a step moves the gradient
        self._curvature = 0.0  # ‖H v‖ of the last product
        self._flat: Tensor | None = None

    def matvec(self, vector: Tensor) -> Tensor:
        """Return the product with a vector (n,)."""
        length = self.space.norm(vector)
        if length == 0:
            return torch.zeros_like(vector)
        direction = vector / length
        if not self._moved:
            return length * self._search(direction)
        for _ in range(3):
            product = self._difference(direction, self._moved / self._curvature)
            found = max(self.space.norm(product), 1e-3 * self._curvature)
            near = found / 6 < self._curvature < found * 6
            self._curvature = found
            if near:
                break
        return length * product

    def gradient(self) -> Tensor | None:
        """Return the gradient, for the price of one the first time."""
        if self._flat is None:
            self._flat = self._gradient()
        return self._flat

    def is_smooth(self) -> bool:
        """Say whether no operation of the loss has a kink, as far as its graph tells, once there was a product."""
        return bool(self._displacement.smooth)

    def displacement(self) -> Displacement:
        """Return what takes the gradients."""
        return self._displacement

    def _search(self, direction: Tensor) -> Tensor:
        """Find c, and return the product."""
        eps = torch.finfo(min((p.dtype for p in self.space.parameters), key=lambda t: torch.finfo(t).bits)).eps
        step = 4 * eps ** (1 / 3)
        tried = {0: self._difference(direction, step)}
        differences: dict[int, float] = {}

        def difference(power: int) -> float:
            """Compare the steps ``_FACTOR**power`` and the next longer one, relative to the product."""
            for i in (power, power + 1):
                if i not in tried:
                    tried[i] = self._difference(direction, step * _FACTOR**i)
            if power not in differences:
                size = max(self.space.norm(tried[power]), torch.finfo(torch.float64).tiny)
                apart = self.space.norm(tried[power] - tried[power + 1]) / size
                differences[power] = apart if apart == apart else torch.inf
            return differences[power]

        best = 0
        way = 1 if difference(0) > difference(1) else -1
        if way == 1:
            best = 1
        for _ in range(_TRIALS):
            if not difference(best + way) < difference(best):
                break
            best += way
        product = tried[best]
        self._curvature = self.space.norm(product)
        self._moved = step * _FACTOR**best * self._curvature
        self.error = min(differences[best], 1.0)
        if self._curvature == 0:  # flat along this direction: nothing learnt about the step
            self._moved = 0.0
        return product

    def _difference(self, direction: Tensor, step: float) -> Tensor:
        if not self._richardson:
            return self._central(direction, step)
        return (4 * self._central(direction, step / 2) - self._central(direction, step)) / 3

    def _central(self, direction: Tensor, step: float) -> Tensor:
        return (self._gradient(direction, step) - self._gradient(direction, -step)) / (2 * step)

    def _gradient(self, direction: Tensor | None = None, step: float = 0.0) -> Tensor:
        self.gradients_spent += 1
        return self._displacement.gradient(direction, step)


def _local(parameter: Tensor) -> Tensor:
    return on_this_rank(parameter)
