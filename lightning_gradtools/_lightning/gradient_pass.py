"""One pass over the gradients a step and optimizer, however many callbacks ask for it."""

import weakref
from dataclasses import dataclass, field

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.optim import Optimizer

from lightning_gradtools.gradients.norms import GradientNorms, gradient_norms


@dataclass
class GradientPass:
    """What one pass over the gradients of one optimizer found, on the device, and what clipping did to them.

    Attributes:
        norms: the norms before clipping, with the loss scale of fp16 divided out.
        loss_scale: [] the scale still in the gradients (a fused optimizer divides it out inside its step), or
            None.
        judged_at_scale: [] the scale of the loss scaler that judges this step and skips it by itself if it is
            not finite, or None without one.
        factors: what clipping multiplied the gradients by, [] or [n] one per parameter; None before or
            without it.
        rewritten: True if clipping changed the gradients in a way that factors do not describe.
        consumers: ids of the callbacks that have been given this pass.
        moment: ``global_step`` and batch that it belongs to.
    """

    norms: GradientNorms
    loss_scale: Tensor | None = None
    judged_at_scale: Tensor | None = None
    factors: Tensor | None = None
    rewritten: bool = False
    consumers: set[int] = field(default_factory=set)
    moment: tuple[int, int] = (-1, -1)

    @property
    def is_free_to_read(self) -> bool:
        """Whether the host may read the norms without waiting for a device."""
        return self.norms.total.device.type == "cpu"


_latest: "weakref.WeakKeyDictionary[Optimizer, dict[float, GradientPass]]" = weakref.WeakKeyDictionary()


def gradient_pass(trainer: Trainer, optimizer: Optimizer, consumer: Callback, norm_type: float = 2.0) -> GradientPass:
    """Return the pass over the gradients that ``optimizer`` is about to use, made by whoever asks first.

    A consumer that asks a second time at the same step gets a new pass: LBFGS evaluates its closure several
    times a step, with other gradients each time, and each evaluation asks every consumer once.
    """
    moment = (trainer.global_step, trainer.fit_loop.epoch_loop.total_batch_idx)
    passes = _latest.setdefault(optimizer, {})
    known = passes.get(norm_type)
    if known is None or known.moment != moment or id(consumer) in known.consumers:
        passes[norm_type] = known = _new_pass(trainer, optimizer, norm_type)
        known.moment = moment
    known.consumers.add(id(consumer))
    return known


def _new_pass(trainer: Trainer, optimizer: Optimizer, norm_type: float) -> GradientPass:
    norms = gradient_norms(optimizer_parameters(optimizer), norm_type)
    scale = loss_scale_of(trainer)
    if scale is None or not getattr(optimizer, "_step_supports_amp_scaling", False):
        return GradientPass(norms, judged_at_scale=scale)
    scale = scale.to(norms.total.device)
    unscaled = GradientNorms(norms.parameters, norms.per_parameter / scale, norms.total / scale, norm_type, norms.plain)
    return GradientPass(unscaled, loss_scale=scale, judged_at_scale=scale)


def loss_scale_of(trainer: Trainer) -> Tensor | None:
    """Return the scale [] that fp16's loss scaler multiplied the loss by, or None without one."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    # `get_scale()` would make the host wait for the device; there is no scale before the first backward pass.
    return None if scaler is None or scaler._scale is None else scaler._scale


def optimizer_parameters(optimizer: Optimizer) -> list[Tensor]:
    """Return the parameters of all groups, in order. Walked anew each step, because groups come and go."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")


def parameter_names(module: torch.nn.Module) -> dict[int, str]:
    """Return the name of every parameter by its ``id``; a tied weight has the first of its names.

    What ``torch.compile``, FSDP and activation checkpointing put into the names is taken out.
    """
    names = {}
    for name, parameter in module.named_parameters():
        for wrapper in _WRAPPERS:
            name = name.replace(wrapper, "")
        names[id(parameter)] = name
    return names
