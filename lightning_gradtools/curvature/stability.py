"""How large learning rate × sharpness may be before an optimizer oscillates."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch.optim import SGD, Adam, AdamW, Optimizer


@dataclass(frozen=True)
class StabilityBound:
    """The edge of stability of an optimizer.

    Attributes:
        learning_rate: of the parameter group that is nearest its bound.
        bound: what learning rate × sharpness may be.
        preconditioned: whether the sharpness is that of the Hessian in the optimizer's own metric.
    """

    learning_rate: float
    bound: float
    preconditioned: bool


def stability_bound(optimizer: Optimizer) -> StabilityBound | None:
    """Return the bound on learning rate × sharpness, or None for an optimizer whose bound is not known.

    On a quadratic gradient descent is stable while the product is below 2; with heavy-ball momentum β below
    ``2 + 2β``, with Nesterov's ``(2 + 2β) / (1 + 2β)`` (Cohen et al. 2021, "Gradient Descent on Neural
    Networks Typically Occurs at the Edge of Stability", section 2 and appendix B); Adam, in the metric of its
    second moments, below ``(2 + 2β₁) / (1 - β₁)``, 38 at β₁ = 0.9 (Cohen et al. 2022, "Adaptive Gradient
    Methods at the Edge of Stability").

    Dampening scales the steps, and so the bound, like a smaller learning rate.

    It is known for the steps of SGD, Adam and AdamW, by whichever class they are inherited. Optimizers with a step of
    their own may have the same settings: Muon Nesterov momentum, RAdam, NAdam and schedule-free Adam ``betas``. There
    is none for ``maximize``, nor at a dampening of 1, where later gradients have no part in a step.

    Of several parameter groups the one counts that is nearest its bound: training oscillates as soon as one does. Those
    that hold nothing trainable do not count; if another has no bound, there is none.
    """
    kind = next((kind for kind in (SGD, AdamW, Adam) if _takes_the_step_of(kind, optimizer)), None)
    if kind is None:
        return None
    bound_of = _bound_of_sgd if kind is SGD else _bound_of_adam
    groups = [group for group in optimizer.param_groups if any(p.requires_grad for p in group["params"])]
    bounds = [None if group["maximize"] else bound_of(group) for group in groups]
    known = [bound for bound in bounds if bound is not None]
    if not known or len(known) < len(bounds):
        return None
    return max(known, key=lambda bound: bound.learning_rate / bound.bound)


def _bound_of_sgd(group: Mapping[str, Any]) -> StabilityBound | None:
    beta = float(group["momentum"])
    bound = (2 + 2 * beta) / (1 + 2 * beta if group["nesterov"] else 1)
    share = 1 - float(group["dampening"]) if beta else 1.0
    return StabilityBound(float(group["lr"]), bound / share, False) if share > 0 else None


def _bound_of_adam(group: Mapping[str, Any]) -> StabilityBound | None:
    beta = float(group["betas"][0])
    return StabilityBound(float(group["lr"]), (2 + 2 * beta) / (1 - beta), True)


def _takes_the_step_of(kind: type[Optimizer], optimizer: Optimizer) -> bool:
    # torch puts a wrapper of the inherited step on a subclass at its first instance
    return isinstance(optimizer, kind) and inspect.unwrap(type(optimizer).step) is inspect.unwrap(kind.step)
