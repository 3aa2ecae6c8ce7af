"""Initialisation schemes, applied layer by layer to what still holds torch's default weights."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_gradtools.arguments import number, one_of
from lightning_gradtools.initialization.signal_path import NORM_LAYERS, WEIGHT_LAYERS, SignalPath
from lightning_gradtools.initialization.stored_weight import (
    assign_,
    constraint_on,
    effective,
    holds_any_scale,
    stored_in,
    way_to_hold,
)

SCHEMES = ("he", "xavier", "orthogonal", "lsuv")
# Statistics of default weights may be this many standard errors off before they are taken for trained.
_STANDARD_ERRORS = 5.0
NOT_DEFAULT = "not torch's default"


@dataclass(frozen=True)
class InitializedLayer:
    """What was done to one layer."""

    name: str
    scheme: str
    reads: str
    """The activation whose output the layer reads; ``"none"`` for data, a normalised signal or a sum."""
    gain: float
    std_before: float
    std_after: float
    tied: tuple[str, ...] = ()
    """Other layers that have the same weights, and got them by this one's rule."""


@dataclass(frozen=True)
class Initialization:
    """What was done to a network, layer by layer."""

    layers: tuple[InitializedLayer, ...]
    left_alone: tuple[str, ...]
    """Layers that are as they were: pretrained, set on purpose, or beyond reach."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why, for each of them."""


def fans(layer: nn.Module) -> tuple[float, float]:
    """Return fan_in and fan_out of a linear layer or convolution.

    As :func:`torch.nn.init.kaiming_normal_` has them, but for transposed convolutions, whose fans it swaps
    and whose stride it does not know: there fan_in is over how many inputs an output sums on average.
    """
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    assert isinstance(layer, nn.modules.conv._ConvNd)
    taps = math.prod(layer.kernel_size)
    fan_in = layer.in_channels / layer.groups * taps
    if layer.transposed:
        return fan_in / math.prod(layer.stride), layer.out_channels / layer.groups * taps
    return fan_in, layer.out_channels * taps


def is_torch_default(layer: nn.Module) -> bool:
    """Return whether a layer's weights look like what its constructor leaves.

    Linear and convolution: uniform within 1 / sqrt(fan_in), by its bound and its variance. Embedding:
    standard normal, by its mean, variance and largest value. Normalisation: exactly one and zero, with no
    batch counted. The statistics may be five standard errors off, so that hardly a default layer is ever
    taken for another; a trained one is taken for default only if it is small and has hardly moved.
    """
    weight, bias = effective(layer), effective(layer, "bias")
    if weight is None:
        return True
    w = weight.double()
    if isinstance(layer, NORM_LAYERS):
        counted = getattr(layer, "num_batches_tracked", None)
        untouched = counted is None or int(counted) == 0
        return untouched and bool((w == 1).all()) and (bias is None or not bias.any())
    if isinstance(layer, nn.Embedding):
        if layer.padding_idx is not None:
            w = torch.cat([w[: layer.padding_idx], w[layer.padding_idx + 1 :]])
        n = max(w.numel(), 1)
        return (
            abs(w.mean().item()) <= _STANDARD_ERRORS / math.sqrt(n)
            and abs(w.square().mean().item() - 1) <= _STANDARD_ERRORS * math.sqrt(2 / n)
            and w.abs().amax().item() <= math.sqrt(2 * math.log(n + 1)) + _STANDARD_ERRORS
        )
    bound = 1 / math.sqrt(max(weight[0].numel(), 1)) * (1 + 2.0**-7)  # bfloat16 may round up by 2^-8
    variance = w.square().mean().item() * 3 * weight[0].numel()
    return (
        w.abs().amax().item() <= bound
        and abs(variance - 1) <= _STANDARD_ERRORS * math.sqrt(0.8 / w.numel()) + 2.0**-7
        and (bias is None or bias.abs().amax().item() <= bound)
    )


@torch.no_grad()
def initialize_(
    module: nn.Module,
    path: SignalPath,
    *,
    scheme: str = "he",
    embedding_std: float | None = 0.02,
    zero_residual: bool = False,
    force: bool = False,
    generator: torch.Generator | None = None,
) -> Initialization:
    """Initialise linear, convolution and embedding layers in place, their biases to zero.

    ==============  =====================================================================================
    ``he``          normal, std = gain / sqrt(fan_in). He et al. 2015, equation 10
    ``xavier``      normal, std = gain * sqrt(2 / (fan_in + fan_out)). Glorot & Bengio 2010, equation 12
    ``orthogonal``  gain times a semi-orthogonal matrix. Saxe et al. 2014
    ``lsuv``        orthogonal; to be followed by :func:`lsuv_`. Mishkin & Matas 2016
    ==============  =====================================================================================

    The gain is that of the activation whose output the layer **reads** (:func:`activation_gain`), as in He's
    derivation: it makes up for what that activation took away. In a stack of equal blocks this is the
    activation that follows the layers; a first layer, and one that reads a normalised signal, has gain 1.

    Weights used twice (tied) are initialised once, by the embedding's rule if one is an embedding, otherwise by that
    of the layer which the network names first. Layers of other kinds, such as recurrent ones and the inside of
    attention modules, are left as they are.

    The weights meant are those that a layer works with. A parametrization, or torch's older ``weight_norm``, is set so
    that these are what the formula says; where it cannot be (``spectral_norm`` and ``orthogonal`` fix the scale,
    pruned weights stay zero), the layer is left alone. So are, with ``force`` too, frozen layers, which are frozen
    because they were pretrained, lazy ones that have no weights yet, and those that the forward pass did not call.

    Args:
        module: the network.
        path: what its forward pass showed.
        scheme: one of the above.
        embedding_std: the standard deviation of embeddings; None to keep torch's 1. By default 0.02 as GPT-2
            (Radford et al. 2019).
        zero_residual: set the last layer of each residual branch to zero, so that a block starts as the
            identity (Goyal et al. 2017, section 5.1, for the last normalisation; Zhang et al. 2019, "Fixup").
        force: also initialise what does not hold torch's default weights.
        generator: the source of randomness.

    Raises:
        ArgumentError: if the scheme is not known or ``embedding_std`` is not positive.
    """
    one_of("scheme", scheme, SCHEMES)
    if embedding_std is not None:
        number("embedding_std", embedding_std, above=0)
    done, reasons, seen = list[InitializedLayer](), dict[str, str](), set[int]()
    ends = path.residual_ends if zero_residual else ()
    # Embeddings first, and otherwise the order in which the network names them.
    order = sorted(module.named_modules(), key=lambda item: not isinstance(item[1], nn.Embedding))
    layers = {name: layer for name, layer in order if isinstance(layer, (nn.Embedding, *WEIGHT_LAYERS)) or name in ends}
    holders = {name: {id(each) for each in stored_in(layer)} for name, layer in layers.items()}
    for name, layer in layers.items():
        if holders[name] & seen:
            continue
        seen |= holders[name]
        embedding = isinstance(layer, nn.Embedding)
        if embedding and embedding_std is None:
            continue
        reason = _why_not(layer, called=embedding or name in path.reads or name in ends, force=force)
        if reason is not None:
            reasons[name] = reason
            continue
        reads, gain = path.reads.get(name, ("none", 1.0))
        before = effective(layer)
        assert before is not None
        value = torch.empty_like(before)
        if name in ends:
            rule, gain = "zero", 0.0
            value.zero_()
        elif embedding:
            rule, gain = "embedding", 1.0
            value.normal_(0, embedding_std or 0.0, generator=generator)
            if isinstance(layer.padding_idx, int):
                value[layer.padding_idx].zero_()
        else:
            rule = scheme
            _draw_(layer, value, scheme, gain, generator)
        std_before = _std(before)
        if not _set_(layer, value):
            reasons[name] = _constraint(layer)
            continue
        after = effective(layer)
        assert after is not None
        tied = tuple(other for other in layers if other != name and holders[other] & holders[name])
        for other in tied:
            bias = effective(layers[other], "bias")
            if bias is not None and all(each.requires_grad for each in stored_in(layers[other], "bias")):
                assign_(layers[other], "bias", torch.zeros_like(bias))
        done.append(InitializedLayer(name, rule, reads, gain, std_before, _std(after), tied))
    return Initialization(tuple(done), tuple(reasons), reasons)


def _why_not(layer: nn.Module, *, called: bool, force: bool) -> str | None:
    """Say why ``layer`` is to be left as it is, if it is."""
    parameters = list(layer.parameters())
    if any(map(is_lazy, parameters)):
        return "lazy and without weights until they have run: run the module once before fit"
    if not all(parameter.requires_grad for parameter in parameters):
        return "frozen"
    if not called:
        return "not called in the forward pass that was looked at"
    weight = effective(layer)
    if weight is None or not weight.is_floating_point() or not weight.numel():
        return "without real numbers for weights"
    if not holds_any_scale(layer):
        return _constraint(layer)
    return None if force or is_torch_default(layer) else NOT_DEFAULT


def _constraint(layer: nn.Module) -> str:
    made_by = constraint_on(layer) or constraint_on(layer, "bias")
    return f"made by {made_by}, which does not hold the weights wanted"


def _set_(layer: nn.Module, weight: Tensor) -> bool:
    """Give ``layer`` these weights and no bias; say whether it has them, and leave it as it was if not."""
    bias = effective(layer, "bias")
    ways = [way_to_hold(layer, "weight", weight)]
    if bias is not None:
        ways.append(way_to_hold(layer, "bias", torch.zeros_like(bias)))
    if None in ways:
        return False
    for way in ways:
        if way is not None:
            way()
    return True


def _draw_(layer: nn.Module, weight: Tensor, scheme: str, gain: float, generator: torch.Generator | None) -> None:
    """Fill ``weight``, of the shape of the layer's."""
    fan_in, fan_out = fans(layer)
    if scheme == "he":
        weight.normal_(0, gain / math.sqrt(fan_in), generator=generator)
    elif scheme == "xavier":
        weight.normal_(0, gain * math.sqrt(2 / (fan_in + fan_out)), generator=generator)
    else:
        # The decomposition behind it is in float32 at least, whatever the weights are in.
        wide = torch.empty_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
        weight.copy_(nn.init.orthogonal_(wide, gain, generator=generator))


def _std(weight: Tensor) -> float:
    return weight.double().std(correction=0).item()


@torch.no_grad()
def scale_(layer: nn.Module, factor: float) -> bool:
    """Multiply the weights that ``layer`` works with by ``factor``, and say whether they could be."""
    weight = effective(layer)
    return weight is not None and assign_(layer, "weight", weight * factor)


@torch.no_grad()
def lsuv_(module: nn.Module, run: Callable[[], object], layers: Collection[str]) -> dict[str, float]:
    """Scale layers in place until each has outputs of variance one on a batch, and return the factors.

    In the order in which they run, each layer's weights are divided by the standard deviation of its output,
    and the layers behind read the corrected output: one forward pass does what Mishkin & Matas 2016, "All You
    Need Is a Good Init", do in one a layer. It is exact, because a layer whose bias is zero is linear in its
    weights.

    Args:
        module: the network, with the biases of ``layers`` at zero.
        run: runs the network on the batch.
        layers: the names of the layers to scale. One whose output does not vary is left as it is.

    Raises:
        ArgumentError: if one of the layers is not in the network.
    """
    modules = dict(module.named_modules())
    for name in layers:
        one_of("layers", name, modules)
    factors: dict[str, float] = {}

    def scale(name: str, layer: nn.Module, _: Any, out: Tensor) -> Tensor:
        if name not in factors:
            std = out.double().std(correction=0).item()
            factor = 1 / std if 0 < std < math.inf else 1.0
            factors[name] = factor if scale_(layer, factor) else 1.0
            out = out * factors[name]
        return out

    hooks = [modules[name].register_forward_hook(partial(scale, name)) for name in layers]
    try:
        # The loss may hold derivatives of its own, which need the weights as they were.
        with torch.autograd.graph.allow_mutation_on_saved_tensors():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return factors
