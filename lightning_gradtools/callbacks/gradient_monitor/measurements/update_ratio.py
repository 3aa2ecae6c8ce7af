"""How far a step moves the weights."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from lightning_gradtools.callbacks.gradient_monitor.measurements.measurement import (
    MeasuredStep,
    Measurement,
    PerLayer,
    StepContext,
    quotient,
)
from lightning_gradtools.gradients.norms import LocalNorms, local_norms, total_norm


class UpdateRatio(Measurement):
    """Logs ``update_ratio``: the norm of the change over that of the weights before it, whatever optimizer steps."""

    def __init__(self) -> None:
        self._before: dict[int, tuple[Sequence[Tensor], list[Tensor]]] = {}  # weights and copies, by optimizer's index

    def before_step(self, context: StepContext) -> Mapping[str, Tensor]:
        # A later evaluation of the same step (LBFGS) finds weights that have moved already.
        if context.index not in self._before:
            parameters, copies = context.norms.parameters, list[Tensor]()
            self._before[context.index] = parameters, copies
            copies.extend(parameter.detach().clone() for parameter in parameters)
        return {}

    def after_step(self, context: StepContext) -> Mapping[str, Tensor]:
        parameters, copies = self._before[context.index]
        if list(map(id, parameters)) != list(map(id, context.norms.parameters)):
            self._before.pop(context.index)
            return {}  # the evaluations of the step reached different weights
        if len(copies) < len(parameters):
            # Copying failed on this rank. Where weights are sharded, the others need its part in their norms.
            copies = [parameter.detach().clone() for parameter in parameters]
        weights = local_norms(copies, context.norm_type)
        for copy, parameter in zip(copies, parameters, strict=True):
            copy.sub_(parameter.detach())  # in place: the copy is not needed any more
        updates = local_norms(copies, context.norm_type)
        both = LocalNorms.joined([weights, updates]).whole().chunk(2)
        self._before.pop(context.index)
        found = dict(zip(("weights", "updates"), both, strict=True))
        return {**found, **{f"{name}_total": total_norm(norms, context.norm_type) for name, norms in found.items()}}

    def scalars(self, found: Mapping[str, Sequence[float]], step: MeasuredStep) -> Mapping[str, PerLayer]:
        if not found:
            return {}
        above, below = (step.norms(found[f"{name}_total"][0], found[name]) for name in ("updates", "weights"))
        total = quotient(found["updates_total"][0], found["weights_total"][0])
        layers = [
            None if update is None or weight is None else quotient(update, weight)
            for update, weight in zip(above.layers, below.layers, strict=True)
        ]
        return {"update_ratio": PerLayer(total=total, layers=layers)}

    def release(self) -> None:
        self._before.clear()
