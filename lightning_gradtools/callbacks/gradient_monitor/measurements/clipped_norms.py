"""The norms after clipping, whoever clipped: by arithmetic from those before it where that is possible."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from lightning_gradtools._lightning.flavour import is_overridden
from lightning_gradtools.callbacks.gradient_monitor.measurements.measurement import (
    MeasuredStep,
    Measurement,
    PerLayer,
    StepContext,
)
from lightning_gradtools.gradients.clipping import RATE_WINDOW, clip_coefficient
from lightning_gradtools.gradients.norms import gradient_norms, total_norm


class ClippedNorms(Measurement):
    """Logs ``grad_norm_clipped`` if anything clips, and ``clip/`` if the Trainer does, by norm.

    Where one factor scaled all gradients the layers are left out: theirs is the same.

    Attributes:
        clipped: whether each of the latest logged steps was clipped.
    """

    def __init__(self) -> None:
        self.clipped: deque[bool] = deque(maxlen=RATE_WINDOW)

    def after_step(self, context: StepContext) -> Mapping[str, Tensor]:
        seen, trainer = context.seen, context.trainer
        norms, factors, measure = seen.norms, seen.factors, seen.rewritten
        found: dict[str, Tensor] = {}
        if factors is None and not measure:
            limit = trainer.gradient_clip_val
            modules_own = is_overridden("configure_gradient_clipping", context.module)
            if not limit and not modules_own:
                return {}
            by_norm = trainer.gradient_clip_algorithm in (None, "norm") and norms.norm_type == 2
            measure = modules_own or not by_norm
            if not measure:
                factors = found["trainers_coefficient"] = clip_coefficient(norms.total, float(limit or 0))
        if measure:
            after = gradient_norms(norms.parameters, norms.norm_type)
            if len(after.per_parameter) == len(norms.per_parameter):
                found.update(norms=after.per_parameter, total=after.total)
        elif factors is not None and factors.ndim == 0:
            found["total"] = norms.total * factors
        elif factors is not None:
            per_parameter = norms.per_parameter * factors
            found.update(norms=per_parameter, total=total_norm(per_parameter, norms.norm_type))
        return found

    def scalars(self, found: Mapping[str, Sequence[float]], step: MeasuredStep) -> Mapping[str, float | PerLayer]:
        scalars: dict[str, float | PerLayer] = {}
        if "norms" in found:
            scalars["grad_norm_clipped"] = step.norms(found["total"][0], found["norms"])
        elif "total" in found:
            scalars["grad_norm_clipped"] = PerLayer(total=found["total"][0])
        if "trainers_coefficient" in found:
            (coefficient,) = found["trainers_coefficient"]
            self.clipped.append(coefficient < 1)
            scalars["clip/coefficient"] = coefficient
            scalars["clip/rate"] = sum(self.clipped) / len(self.clipped)
        return scalars

    def reset(self) -> None:
        self.clipped.clear()

    def state_dict(self) -> dict[str, Any]:
        return {"clipped": list(self.clipped)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        clipped = [bool(each) for each in state["clipped"]]
        self.clipped.clear()
        self.clipped.extend(clipped)
