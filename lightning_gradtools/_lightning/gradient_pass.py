"""One pass over the gradients a step and optimizer, however many callbacks ask for it."""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.optim import Optimizer

from lightning_gradtools._lightning.loop import batch_moment
from lightning_gradtools._lightning.strategy import loss_scale_of, unscales_itself
from lightning_gradtools.gradients.norms import GradientNorms, LocalGradientNorms, local_gradient_norms


@dataclass
class GradientPass:
    """What one pass over the gradients of one optimizer found, on the device, and what clipping did to them.

    Attributes:
        local: the norms of what this rank holds, as they are in the gradients.
        loss_scale: [] the scale still in the gradients (a fused optimizer divides it out inside its step), or
            None.
        judged_at_scale: [] the scale of the loss scaler that judges this step and skips it by itself if it is
            not finite, or None without one.
        factors: what clipping multiplied the gradients by, [] or [n] one per parameter; None before or
            without it.
        rewritten: True if clipping changed the gradients in a way that factors do not describe.
    """

    local: LocalGradientNorms
    loss_scale: Tensor | None = None
    judged_at_scale: Tensor | None = None
    factors: Tensor | None = None
    rewritten: bool = False
    _norms: GradientNorms | None = None
    _consumers: set[int] = field(default_factory=set)
    _moment: tuple[object, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether :attr:`norms` are known without the other ranks."""
        return self._norms is not None or not self.local.norms.needs_ranks

    @property
    def norms(self) -> GradientNorms:
        """The norms before clipping, with the loss scale of fp16 divided out.

        Ranks bring them together where the first one asks: every rank has to, at the same place.
        """
        if self._norms is None:
            norms = self.local.whole()
            if self.loss_scale is not None:
                scale = self.loss_scale.to(norms.total.device)
                norms = replace(norms, per_parameter=norms.per_parameter / scale, total=norms.total / scale)
            self._norms = norms
        return self._norms

    @property
    def is_free_to_read(self) -> bool:
        """Whether the host may read the norms without waiting for a device."""
        return self.norms.total.device.type == "cpu"

    def scaled(self, coefficient: Tensor, members: Sequence[int] | None = None) -> None:
        """Note that gradients were multiplied by ``coefficient`` []: all, or those at the positions ``members``."""
        if members is None:
            self.factors = coefficient
            return
        if self.factors is None:
            self.factors = torch.ones_like(self.norms.per_parameter)
        self.factors[list(members)] = coefficient.to(self.factors.dtype)

    def rewrite(self) -> None:
        """Note that gradients were changed in a way that no factor describes."""
        self.rewritten = True

    def measured_anew(self, norms: GradientNorms) -> None:
        """Take ``norms`` for those of the same gradients, measured in another precision."""
        self._norms = norms


_passes: "weakref.WeakKeyDictionary[Trainer, dict[tuple[int, float], GradientPass]]" = weakref.WeakKeyDictionary()


def forget_passes(trainer: Trainer) -> None:
    """Begin a run: whatever was measured in another one is no part of it."""
    _passes.pop(trainer, None)


def gradient_pass(trainer: Trainer, optimizer: Optimizer, consumer: Callback, norm_type: float = 2.0) -> GradientPass:
    """Return the pass over the gradients that ``optimizer`` is about to use, made by whoever asks first.

    It is made again where a gradient was changed in the meantime by someone who does not belong to us, and where a
    consumer asks a second time at the same step: LBFGS evaluates its closure several times a step, with other gradients
    each time, and each evaluation asks every consumer once.
    """
    parameters = optimizer_parameters(optimizer)
    versions = [-1 if each.grad is None else each.grad._version for each in parameters]
    moment = (*batch_moment(trainer), versions)
    passes = _passes.setdefault(trainer, {})
    key = id(optimizer), norm_type
    known = passes.get(key)
    if known is None or known._moment != moment or id(consumer) in known._consumers:
        passes[key] = known = _new_pass(trainer, optimizer, parameters, norm_type)
        known._moment = moment
    known._consumers.add(id(consumer))
    return known


def _new_pass(trainer: Trainer, optimizer: Optimizer, parameters: list[Tensor], norm_type: float) -> GradientPass:
    local, scale = local_gradient_norms(parameters, norm_type), loss_scale_of(trainer)
    # a copy: the scaler changes its scale in place once the step is taken
    left_in = scale.clone() if scale is not None and unscales_itself(optimizer) else None
    return GradientPass(local, loss_scale=left_in, judged_at_scale=scale)


def optimizer_parameters(optimizer: Optimizer) -> list[Tensor]:
    """Return the parameters of all groups, in order. Walked anew each step, because groups come and go."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
