"""One step's gradient beside the one's before, and the cosine between them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.optim import Optimizer

from lightning_gradtools._lightning.gradient_pass import optimizer_parameters
from lightning_gradtools.callbacks.gradient_monitor.measurements.measurement import (
    MeasuredStep,
    Measurement,
    PerLayer,
    StepContext,
    quotient,
)
from lightning_gradtools.gradients.direction import inner_products


@dataclass(frozen=True, kw_only=True)
class _Copy:
    """The gradients of one optimizer's step."""

    parameters: Sequence[Tensor]
    gradients: list[Tensor]


class GradientCosine(Measurement):
    """Logs ``grad_cosine``, unless the step before reached other parameters."""

    def __init__(self) -> None:
        self._copies: dict[int, dict[int, _Copy]] = {}  # by the optimizer's index and the step

    def before_next(self, step: int, index: int, optimizer: Optimizer) -> None:
        parameters = [each for each in optimizer_parameters(optimizer) if each.grad is not None]
        copy = _Copy(parameters=parameters, gradients=[])
        self._copies.setdefault(index, {})[step] = copy
        copy.gradients.extend(each.grad.clone() for each in parameters if each.grad is not None)

    def before_step(self, context: StepContext) -> Mapping[str, Tensor]:
        last = self._copies.get(context.index, {}).get(context.step - 1)
        if last is None or list(map(id, last.parameters)) != list(map(id, context.norms.parameters)):
            return {}
        now, before = context.norms.gradients(), last.gradients
        if len(before) < len(now):
            before = (
                now  # copying failed on this rank; where gradients are sharded, the others need its part all the same
            )
        pairs = {"inner_products": (now, before), "squares_now": (now, now), "squares_before": (before, before)}
        return {name: inner_products(*pair) for name, pair in pairs.items()}

    def after_step(self, context: StepContext) -> Mapping[str, Tensor]:
        kept = self._copies.get(context.index, {})
        for step in kept.keys() - {context.step}:
            del kept[step]
        return {}

    def scalars(self, found: Mapping[str, Sequence[float]], step: MeasuredStep) -> Mapping[str, PerLayer]:
        if not found:
            return {}
        terms = [found[name] for name in ("inner_products", "squares_now", "squares_before")]
        layers = list(map(_cosine, *map(step.layers.sums, terms)))
        return {"grad_cosine": PerLayer(total=_cosine(*map(math.fsum, terms)), layers=layers)}

    def release(self) -> None:
        self._copies.clear()


def _cosine(product: float, square: float, other_square: float) -> float | None:
    return quotient(product, (square * other_square) ** 0.5)
