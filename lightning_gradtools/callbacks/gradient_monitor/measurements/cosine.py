"""One step's gradient beside the one's before, and the cosine between them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
from lightning_gradtools.distributed import is_distributed
from lightning_gradtools.gradients.direction import inner_products


@dataclass(frozen=True, kw_only=True)
class _Copy:
    """The gradients of one optimizer's step."""

    parameters: Sequence[Tensor]
    positions: Sequence[int]
    """Of these among all of the optimizer's."""
    gradients: list[Tensor]


class GradientCosine(Measurement):
    """Logs ``grad_cosine``, unless the step before reached other parameters."""

    def __init__(self) -> None:
        self._copies: dict[int, dict[int, _Copy]] = {}  # by the optimizer's index and the step
        self._loaded: dict[int, dict[str, Any]] = {}  # what a checkpoint says of them, by the optimizer's index

    def before_next(self, step: int, index: int, optimizer: Optimizer) -> None:
        reached = {i: each for i, each in enumerate(optimizer_parameters(optimizer)) if each.grad is not None}
        parameters = list(reached.values())
        copy = _Copy(parameters=parameters, positions=list(reached), gradients=[])
        self._copies.setdefault(index, {})[step] = copy
        copy.gradients.extend(each.grad.clone() for each in parameters if each.grad is not None)

    def before_step(self, context: StepContext) -> Mapping[str, Tensor]:
        if (loaded := self._loaded.pop(context.index, None)) is not None:
            self._take_over(loaded, context)
        last = self._copies.get(context.index, {}).get(context.step - 1)
        if last is None or list(map(id, last.parameters)) != list(map(id, context.norms.parameters)):
            return {}
        now, before = context.norms.gradients(), last.gradients
        if len(before) < len(now):
            before = (
                now  # copying failed on this rank; where gradients are sharded, the others need its part all the same
            )
        found = inner_products([*now, *now, *before], [*before, *now, *before]).chunk(3)
        return dict(zip(("inner_products", "squares_now", "squares_before"), found, strict=True))

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

    def state_dict(self) -> dict[str, Any]:
        """Return the copies that the next logged step is compared with: there are some just before that step only.

        Of whole gradients; those of which each rank has a part are too many to bring together for this.
        """
        copies = {str(index): _as_state(copies) for index, copies in self._copies.items() if copies}
        return {"cosine": {index: state for index, state in copies.items() if state is not None}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._loaded = {int(index): copy for index, copy in state["cosine"].items()}

    def _take_over(self, loaded: Mapping[str, Any], context: StepContext) -> None:
        """Find out which parameters the copies of a checkpoint are of, and bring them to these."""
        parameters = optimizer_parameters(context.optimizer)
        chosen = [parameters[position] for position in loaded["positions"] if position < len(parameters)]
        if [each.shape for each in chosen] == [each.shape for each in loaded["gradients"]]:
            gradients = [each.to(parameter) for each, parameter in zip(loaded["gradients"], chosen, strict=True)]
            copy = _Copy(parameters=chosen, positions=loaded["positions"], gradients=gradients)
            self._copies.setdefault(context.index, {}).setdefault(loaded["step"], copy)

    def release(self) -> None:
        self._copies.clear()

    def reset(self) -> None:
        self._loaded.clear()


def _as_state(copies: Mapping[int, _Copy]) -> dict[str, Any] | None:
    step, copy = max(copies.items())
    if any(map(is_distributed, copy.gradients)):
        return None
    return {"step": step, "positions": copy.positions, "gradients": [each.cpu() for each in copy.gradients]}


def _cosine(product: float, square: float, other_square: float) -> float | None:
    return quotient(product, (square * other_square) ** 0.5)
