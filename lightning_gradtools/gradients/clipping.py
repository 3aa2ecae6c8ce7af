r"""Clipping of gradients, in place, whatever mix of tensors they are.

Global-norm clipping (Pascanu et al. 2013) multiplies every gradient by one coefficient, as ``torch.nn.utils``
does:

.. math:: c = \min\left(1, \frac{\text{max\_norm}}{\lVert g \rVert + 10^{-6}}\right)

Where torch raises (sparse gradients, a mix of ``DTensor`` and plain ones) the same formula holds here.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_gradtools.arguments import number
from lightning_gradtools.distributed import on_this_rank, summed
from lightning_gradtools.gradients.norms import GradientNorms, gradient_norms

_EPS = 1e-6  # torch.nn.utils.clip_grad_norm_'s, so that both give one result

RATE_WINDOW = 100  # steps over which the share of clipped ones runs


def clip_coefficient(total: Tensor, max_norm: float | Tensor) -> Tensor:
    """Return min(1, max_norm / (total + 1e-6)), on the device of ``total``.

    Args:
        total: [] or [n] norms.
        max_norm: the bound, of the same unit.
    """
    return (max_norm / (total + _EPS)).clamp_(max=1.0)


def clip_by_global_norm_(parameters: Sequence[Tensor], max_norm: float, norm_type: float = 2.0) -> GradientNorms:
    """Scale the gradients of ``parameters`` so that their total norm is at most ``max_norm``.

    Args:
        parameters: leaf tensors; those without a gradient are left out.
        max_norm: the bound on the total norm.
        norm_type: 1, 2 or ``math.inf``.

    Returns:
        The norms before clipping.

    Raises:
        ArgumentError: if ``max_norm`` is negative or not finite.
    """
    number("max_norm", max_norm, at_least=0)
    norms = gradient_norms(parameters, norm_type)
    scale_(norms.gradients(), clip_coefficient(norms.total, max_norm), norms.plain)
    return norms


@torch.no_grad()
def scale_(gradients: Sequence[Tensor], coefficient: Tensor, plain: bool = False) -> None:
    """Multiply every gradient by ``coefficient`` (0-d, on any device) in place.

    ``plain`` promises dense tensors on the coefficient's device, which spares looking at each of them.
    """
    # By a tensor, not by its value: the host need not wait, and `_foreach_mul_` on a CPU is 3 times as fast.
    if plain:
        torch._foreach_mul_(list(gradients), coefficient)
        return
    by_device: dict[torch.device, list[Tensor]] = {}
    for gradient in gradients:
        stored = stored_in_place(gradient)
        by_device.setdefault(stored.device, []).append(stored)
    for device, stored_there in by_device.items():
        torch._foreach_mul_(stored_there, coefficient.to(device))


@torch.no_grad()
def clip_by_value_(parameters: Sequence[Tensor], clip_value: float) -> None:
    """Clamp every element of the gradients of ``parameters`` to [-clip_value, clip_value].

    Of a complex element the real and the imaginary part are clamped each. A NaN stays one, an infinity is
    clamped. A sparse gradient with duplicate entries, or a ``DTensor`` that is a pending sum, is replaced by
    its clamped sum: clamping the terms would not clamp the sum.

    Raises:
        ArgumentError: if ``clip_value`` is negative or not finite.
    """
    number("clip_value", clip_value, at_least=0)
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is None:
            continue
        if gradient.layout == torch.sparse_coo and not gradient.is_coalesced():
            parameter.grad = gradient = gradient.coalesce()
        else:
            parameter.grad = gradient = summed(gradient)
        stored = stored_in_place(gradient)
        if stored.is_complex():
            stored = torch.view_as_real(stored)
        stored.clamp_(-clip_value, clip_value)


def stored_in_place(gradient: Tensor) -> Tensor:
    """Return the dense tensor whose memory holds the elements of ``gradient`` on this rank."""
    gradient = on_this_rank(gradient)
    if gradient.layout == torch.strided:
        return gradient
    return gradient._values() if gradient.layout == torch.sparse_coo else gradient.values()
