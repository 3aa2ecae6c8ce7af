"""Taps on one forward and backward pass: what each layer puts out, and the loss gradient that comes back to it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from lightning_gradtools.activations.baseline_loss import GUESSES, Guess
from lightning_gradtools.activations.flat_regions import (
    FLAT_BELOW,
    FLAT_BEYOND,
    attention_rows,
    flat_share,
    largest_input,
    one_sided,
    saturated_rows,
    unit_dim,
)

_CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
_ONE_SIDED = {*FLAT_BELOW, "clamp", "clamp_min"}
_FOLLOWED = {*GUESSES, *_ONE_SIDED, *FLAT_BEYOND, "softmax", "scaled_dot_product_attention"}
_RECURRENT = (nn.RNN, nn.RNNCell)
_CHANNELS_FIRST_NORMS = (nn.modules.instancenorm._InstanceNorm,)


@dataclass
class TappedLayer:
    """What one module with parameters of its own showed, summed over its calls.

    Attributes:
        name: its path.
        order: its place in the order of first calls.
        signals: standard deviation of the outputs over samples, a 0-d tensor per call, if asked for.
        gradients: ‖∂loss/∂output‖, a 0-d tensor per call that the backward pass reached.
    """

    name: str
    order: int
    signals: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)


@dataclass
class TappedActivation:
    """What one activation function showed in one place.

    Attributes:
        name: path of the module to name: the activation itself, or for a function the layer that fed it.
        function: its name, such as ``"relu"``.
        order: number of modules with parameters that had run before it.
        fired: [units] bool: whether any input was off the flat side, for one-sided functions.
        flat: [units] share of outputs on a flat side, for two-sided ones.
    """

    name: str
    function: str
    order: int
    fired: Tensor | None = None
    flat: Tensor | None = None

    def add_flat(self, flat: Tensor) -> None:
        """Add a call: a unit is as flat as where it is least so."""
        self.flat = flat if self.flat is None else torch.minimum(self.flat, flat)


class StepTap(TorchFunctionMode):
    """Sees layers by hooks, and activations (modules or functions alike) and losses by their function calls.

    Made for the few steps that are sampled: :meth:`attach` adds hooks to the modules without children or with
    parameters of their own, :meth:`detach` takes them off; between ``with tap:`` and its end functions are seen.
    Nothing is changed, copied or brought to the host.

    ``nn.RNN`` and ``nn.RNNCell`` put out what their activation does, and ``scaled_dot_product_attention`` is followed
    on a few queries; what else happens inside one fused function (the gates of ``nn.LSTM``, the softmax of
    ``nn.MultiheadAttention``) is not seen.

    Args:
        module: the network.
        signals: whether to measure how much the layers' outputs differ between samples.

    Attributes:
        layers: modules with parameters that ran, by path.
        samples: size of the first dimension of the first layer's input.
        guesses: the losses of known kind that were computed, and what is needed to know the loss of guessing.
    """

    def __init__(self, module: nn.Module, signals: bool = False) -> None:
        super().__init__()
        self._signals = signals
        self.layers: dict[str, TappedLayer] = {}
        self.samples = 0
        self.guesses: list[Guess] = []
        self._module = module
        self._sites: dict[tuple[str, str, str, int], TappedActivation] = {}
        self._handles: list[RemovableHandle] = []
        self._running: list[str] = []
        self._last = ""
        # By id of an output: kept alive so that its id stays its own.
        self._producers: dict[int, tuple[Tensor, str, bool]] = {}

    def attach(self) -> None:
        """Add the hooks."""
        for name, module in self._module.named_modules():
            if name and (module._parameters or not module._modules):
                name = name.replace("_orig_mod.", "")
                self._handles.append(module.register_forward_pre_hook(partial(self._enter, name)))
                self._handles.append(module.register_forward_hook(partial(self._leave, name)))

    def detach(self) -> None:
        """Take the hooks off and forget the outputs; those on tensors go with the tensors."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._producers.clear()

    def forget_outputs(self) -> None:
        """Let go of the tensors of the forward pass."""
        self._producers.clear()
        self._running.clear()

    def activations(self) -> list[TappedActivation]:
        """Return the activations in order of first call.

        A module that serves several layers (one ``nn.ReLU`` for a whole network) is named by the layer before it.
        """
        fed: dict[str, set[str]] = {}
        for module, producer, *_ in self._sites:
            fed.setdefault(module, set()).add(producer)
        for (module, producer, *_), site in self._sites.items():
            shared = len(fed[module]) > 1
            site.name = producer if (not module or shared) and producer else module
        return list(self._sites.values())

    def _enter(self, name: str, _: nn.Module, args: tuple[Any, ...]) -> None:
        self._running.append(name)
        if not self.samples:
            self.samples = next((arg.shape[0] for arg in args if isinstance(arg, Tensor) and arg.dim()), 0)

    def _leave(self, name: str, module: nn.Module, _: tuple[Any, ...], out: Any) -> None:
        if self._running:
            self._running.pop()
        if not module._parameters and not isinstance(module, _CHANNELS_FIRST_NORMS):
            return
        if isinstance(out, (tuple, list)) and out:
            out = out[0]
        if isinstance(out, PackedSequence):
            out = out.data
        if not isinstance(out, Tensor) or not out.is_floating_point():
            return
        if module._parameters:
            self._last = name
            layer = self.layers.get(name)
            if layer is None:
                layer = self.layers[name] = TappedLayer(name, len(self.layers))
            if self._signals and len(out) > 1:
                layer.signals.append(out.detach().double().var(0).mean().sqrt())
            if out.requires_grad:
                out.register_hook(partial(self._returned, layer))
            channels = isinstance(module, _CHANNELS_FIRST)
            self._producers[id(out)] = (out, name, channels)
            if isinstance(module, _RECURRENT) and out.requires_grad:
                self._recurrent(name, module, out)
        else:
            self._producers[id(out)] = (out, self._last, True)

    def _recurrent(self, name: str, module: nn.RNN | nn.RNNCell, out: Tensor) -> None:
        """Take the hidden states of a plain recurrent network for the outputs of its activation, which they are."""
        site = self._site(name, name, module.nonlinearity, out.shape[-1])
        if module.nonlinearity == "relu":
            fired = largest_input(out, out.dim() - 1) > 0
            site.fired = fired if site.fired is None else site.fired | fired
        else:
            site.add_flat(flat_share("tanh", out, out.dim() - 1))

    @staticmethod
    def _returned(layer: TappedLayer, gradient: Tensor) -> None:
        layer.gradients.append(_norm(gradient))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").rstrip("_")
        if name not in _FOLLOWED:  # most calls, attributes of tensors among them
            return func(*args, **kwargs)
        if name in GUESSES:
            out = func(*args, **kwargs)
            guess = GUESSES[name](args, kwargs, out)
            if guess is not None:
                self.guesses.append(guess)
            return out
        if name in _ONE_SIDED:
            self._one_sided(name, args, kwargs)
            return func(*args, **kwargs)
        out = func(*args, **kwargs)
        self._two_sided(name, args, kwargs, out)
        return out

    def _one_sided(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        function = one_sided(name, args, kwargs)
        x = args[0] if args else kwargs.get("input")
        if function is None or not isinstance(x, Tensor) or x.dim() < 2 or not x.requires_grad:
            return
        module, producer, channels = self._place(x)
        fired = largest_input(x, unit_dim(x.dim(), channels)) > FLAT_BELOW[function]
        site = self._site(module, producer, function, len(fired))
        site.fired = fired if site.fired is None else site.fired | fired

    def _two_sided(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        x = args[0] if args else kwargs.get("input", kwargs.get("query"))
        if not isinstance(out, Tensor) or not isinstance(x, Tensor) or out.dim() < 2 or not out.requires_grad:
            return
        module, producer, channels = self._place(x)
        flat: Tensor | None
        if name == "scaled_dot_product_attention":
            name, flat = "softmax", attention_rows(args, kwargs)
        elif name == "softmax":
            dim = kwargs.get("dim", args[1] if len(args) > 1 else -1)
            if not isinstance(dim, int):
                return
            flat = saturated_rows(x, out, dim)
        else:
            flat = flat_share(name, out, unit_dim(out.dim(), channels))
        if flat is not None:
            self._site(module, producer, name, len(flat)).add_flat(flat)

    def _place(self, x: Tensor) -> tuple[str, str, bool]:
        """Return the running module, the layer that put ``x`` out (or ran last), and whether channels come first."""
        _, producer, channels = self._producers.get(id(x), (None, self._last, False))
        return self._running[-1] if self._running else "", producer, channels

    def _site(self, module: str, producer: str, function: str, units: int) -> TappedActivation:
        key = (module, producer, function, units)
        if key not in self._sites:
            self._sites[key] = TappedActivation(module or producer, function, len(self.layers))
        return self._sites[key]


def _norm(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    if tensor.is_sparse:
        tensor = tensor.coalesce().values()
    # Single precision would square a gradient of 1e-23, nothing unusual at the bottom of a deep stack, to zero.
    dtype = torch.float32 if tensor.device.type == "mps" else torch.float64
    norm: Tensor = torch.linalg.vector_norm(tensor, dtype=dtype)
    return norm
