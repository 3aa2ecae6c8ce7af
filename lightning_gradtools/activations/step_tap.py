"""Taps on one forward and backward pass: what each layer puts out, and the loss gradient that comes back to it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from lightning_gradtools.activations.attention_heads import (
    head_sharpness,
    projected_scores,
    sampled_rows,
    sampled_scores,
)
from lightning_gradtools.activations.baseline_loss import KNOWN_LOSSES, LossSample
from lightning_gradtools.activations.contract_tap import ContractTap
from lightning_gradtools.activations.flat_regions import (
    FLAT_BELOW,
    FLAT_BEYOND,
    flat_share,
    largest_input,
    one_sided,
    saturated_rows,
    unit_dim,
)
from lightning_gradtools.activations.log_partition import log_partition
from lightning_gradtools.activations.ordinary import is_ordinary
from lightning_gradtools.activations.routing import CHOICES, RoutedLayer, Routing
from lightning_gradtools.distributed import arrived

_CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
_ONE_SIDED = {*FLAT_BELOW, "clamp", "clamp_min"}
_MEASURED = {*KNOWN_LOSSES, *FLAT_BEYOND, "softmax", "scaled_dot_product_attention"}
_IN_CONTRACTS = {*_MEASURED, *_ONE_SIDED, "log_softmax"}
_FOLLOWED = {*_IN_CONTRACTS, *CHOICES, "multi_head_attention_forward"}
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


Guard = Callable[[Callable[..., Any]], Callable[..., Any]]


def _unguarded(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


class StepTap(TorchFunctionMode):
    """Sees layers by hooks, and activations (modules or functions alike) and losses by their function calls.

    Made for the few steps that are sampled, and only between ``with tap:`` and its end. Nothing is changed, copied,
    brought to the host or put on a module: the hooks are torch's global ones, so that a copy or a pickle of the
    network, made at any moment, knows nothing of them. Only ordinary dense tensors with elements are looked at;
    others (nested, sparse, subclasses, those inside ``vmap`` or ``grad``) pass by.

    ``nn.RNN`` and ``nn.RNNCell`` put out what their activation does, and ``scaled_dot_product_attention`` is followed
    on a few queries, as are the heads of ``nn.MultiheadAttention``; what else happens inside one fused function (the
    gates of ``nn.LSTM``, how many of the latter's rows are saturated) is not seen.

    Args:
        modules: the modules of a network by path, as of ``named_modules()``.
        signals: whether to measure how much the layers' outputs differ between samples.
        guard: wraps every function of this that runs inside the user's forward and backward pass; what it returns must
            never raise.
        contracts: what is to hear of the first layer's input, of activation functions and of losses.

    Attributes:
        layers: modules with parameters that put out a tensor, by path.
        ran: paths of the modules with parameters that ran.
        unseen: paths of those of them that ran where no gradient is recorded, as under reentrant checkpointing.
        samples: size of the first dimension of the first layer's input.
        losses: the losses of known kind that were computed, and what is needed to know the baseline loss.
        heads: of each attention, by its path, a [2, heads] per call (see ``attention_heads``).
        log_partitions: of each cross-entropy, a [2] per call (see ``log_partition``).
        collecting: whether gradients that come back are those of the loss. Clear it while others are computed, such as
            those of a penalty inside the forward pass.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        signals: bool = False,
        guard: Guard = _unguarded,
        contracts: ContractTap | None = None,
    ) -> None:
        super().__init__()
        self._signals = signals
        self.contracts = contracts
        self.layers: dict[str, TappedLayer] = {}
        self.ran: set[str] = set()
        self.unseen: set[str] = set()
        self._modes: dict[bool, set[str]] = {True: set(), False: set()}  # of `training`
        self.samples = 0
        self.losses: list[LossSample] = []
        self.heads: dict[str, list[Tensor]] = {}
        self.log_partitions: list[Tensor] = []
        self.collecting = True
        self._tapped: dict[int, tuple[str, bool]] = {}  # by id of the module: path, and whether it has parameters
        for name, module in modules.items():
            owns = next(module.parameters(recurse=False), None) is not None
            if name and (owns or next(module.children(), None) is None):
                self._tapped[id(module)] = name, owns
        self._routing = Routing(modules)
        self._sites: dict[tuple[str, str, str, int], TappedActivation] = {}
        self._handles: list[RemovableHandle] = []
        self._running: list[str] = []
        self._last = ""
        # By id of an output: kept alive so that its id stays its own.
        self._producers: dict[int, tuple[Tensor, str, bool]] = {}
        self._enter, self._leave, self._returned = guard(self._on_enter), guard(self._on_leave), guard(self._on_return)
        self._called, self._give_out = guard(self._on_call), guard(self._on_result)
        self._route, self._routed = guard(self._routing.enter), guard(self._routing.leave)
        self._chose, self._attended = guard(self._on_choice), guard(self._on_attention)
        self._enter_first, self._note = guard(self._on_first), guard(self._on_contract)

    def __enter__(self) -> "StepTap":
        """Begin to look."""
        self._handles = [register_module_forward_pre_hook(self._before), register_module_forward_hook(self._after)]
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        """Take the hooks off and forget the outputs; those on tensors go with the tensors."""
        try:
            super().__exit__(*error)
        finally:
            self.remove()

    def remove(self) -> None:
        """Take the hooks off and forget the outputs, whatever state they are in."""
        while self._handles:
            self._handles.pop().remove()
        self._producers.clear()
        self._running.clear()
        if self.contracts is not None:
            self.contracts.forget()

    @property
    def evaluating(self) -> set[str]:
        """Paths of modules with parameters, or without children, that ran in evaluation mode only."""
        return self._modes[False] - self._modes[True]

    def activations(self) -> list[TappedActivation]:
        """Return the activations in order of first call.

        A module that serves several layers (one ``nn.ReLU`` for a whole network) is named by the layer before it.
        Those inside experts that are given different numbers of samples are left out: a unit that is silent on few of
        them is not dead, and which experts run differs from step to step.
        """
        fed: dict[str, set[str]] = {}
        for module, producer, *_ in self._sites:
            fed.setdefault(module, set()).add(producer)
        for (module, producer, *_), site in self._sites.items():
            shared = len(fed[module]) > 1
            site.name = producer if (not module or shared) and producer else module
        experts = tuple(f"{each.members}." for each in self.routed if not each.is_even)
        return [site for site in self._sites.values() if not site.name.startswith(experts)]

    @property
    def routed(self) -> list[RoutedLayer]:
        """The mixture-of-experts layers whose routers chose."""
        return self._routing.layers

    # What runs inside the user's forward pass. The first two see every module there is, in every thread.

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if self._routing.watches(module):
            self._route(module, args)
        tapped = self._tapped.get(id(module))
        if tapped is not None:
            self._enter(*tapped, module.training, args)
            if self.contracts is not None:
                self._enter_first(tapped[0], module, args)

    def _after(self, module: nn.Module, _: tuple[Any, ...], out: Any) -> None:
        if self._routing.watches(module):
            self._routed(module)
        tapped = self._tapped.get(id(module))
        if tapped is not None:
            self._leave(*tapped, module, out)

    def _on_enter(self, name: str, owns: bool, training: bool, args: tuple[Any, ...]) -> None:
        self._running.append(name)
        self._modes[training].add(name)
        if owns:
            self.ran.add(name)
            if not torch.is_grad_enabled():
                self.unseen.add(name)
        if not self.samples:
            self.samples = next((arg.shape[0] for arg in args if isinstance(arg, Tensor) and arg.dim()), 0)

    def _on_leave(self, name: str, owns: bool, module: nn.Module, out: Any) -> None:
        if self._running:
            self._running.pop()
        if not owns and not isinstance(module, _CHANNELS_FIRST_NORMS):
            return
        out = _first_tensor(out)
        if out is None or not is_ordinary(out) or not out.is_floating_point() or not out.dim():
            return
        if not owns:
            self._producers[id(out)] = (out, self._last, True)
            return
        self._last = name
        layer = self.layers.get(name)
        if layer is None:
            layer = self.layers[name] = TappedLayer(name, len(self.layers))
        if self._signals and len(out) > 1:
            layer.signals.append(_wide(out.detach()).var(0).mean().sqrt())
        if out.requires_grad:
            out.register_hook(partial(self._come_back, layer))
        channels = isinstance(module, _CHANNELS_FIRST)
        self._producers[id(out)] = (out, name, channels)
        if isinstance(module, _RECURRENT) and out.requires_grad:
            self._recurrent(name, module, out)

    def _recurrent(self, name: str, module: nn.RNN | nn.RNNCell, out: Tensor) -> None:
        """Take the hidden states of a plain recurrent network for the outputs of its activation, which they are."""
        site = self._site(name, name, module.nonlinearity, out.shape[-1])
        if module.nonlinearity == "relu":
            fired = largest_input(out, out.dim() - 1) > 0
            site.fired = fired if site.fired is None else site.fired | fired
        else:
            site.add_flat(flat_share("tanh", out, out.dim() - 1))

    def _come_back(self, layer: TappedLayer, gradient: Tensor) -> None:
        if self.collecting:
            self._returned(layer, gradient)

    @staticmethod
    def _on_return(layer: TappedLayer, gradient: Tensor) -> None:
        layer.gradients.append(_norm(gradient))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        """Call ``func`` once, whatever becomes of looking at it."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", None)
        name = name.rstrip("_") if isinstance(name, str) else ""
        if name not in _FOLLOWED:  # most calls, attributes of tensors among them
            return func(*args, **kwargs)
        if name in _ONE_SIDED:
            self._called(name, args, kwargs)
        out = func(*args, **kwargs)
        if name in CHOICES and self._routing.expects():
            self._chose(name, args, kwargs, out)
        if name == "multi_head_attention_forward":
            self._attended(args, kwargs, out)
        elif name in _MEASURED:
            self._give_out(name, args, kwargs, out)
        if self.contracts is not None and name in _IN_CONTRACTS:
            self._note(name, args, kwargs, out)
        return out

    def _on_first(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        if self.contracts is not None:
            self.contracts.enter(name, module, args)

    def _on_contract(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        if self.contracts is None:
            return
        if name in KNOWN_LOSSES:
            self.contracts.loss(name, args, kwargs, self._last)
        else:
            self.contracts.activation(one_sided(name, args, kwargs) or name, args, kwargs, out)

    def _on_call(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Look at the input of a one-sided function, which may be about to be overwritten."""
        function = one_sided(name, args, kwargs)
        x = args[0] if args else kwargs.get("input")
        if function is None or not isinstance(x, Tensor) or x.dim() < 2 or not x.requires_grad:
            return
        values = arrived(x)
        if not is_ordinary(values):
            return
        module, producer, channels = self._place(x)
        fired = largest_input(values, unit_dim(x.dim(), channels)) > FLAT_BELOW[function]
        site = self._site(module, producer, function, len(fired))
        site.fired = fired if site.fired is None else site.fired | fired

    def _on_result(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        """Look at the output of a two-sided function, or at a loss."""
        if not isinstance(out, Tensor) or not is_ordinary(out) or not out.requires_grad:
            return
        if name in KNOWN_LOSSES:
            sample = KNOWN_LOSSES[name](args, kwargs, out)
            if sample is not None:
                self.losses.append(sample)
            drift = log_partition(args, kwargs) if name == "cross_entropy" else None
            if drift is not None:
                self.log_partitions.append(drift)
            return
        x = args[0] if args else kwargs.get("input", kwargs.get("query"))
        if not isinstance(x, Tensor) or not is_ordinary(arrived(x)) or out.dim() < 2:
            return
        module, producer, channels = self._place(x)
        flat: Tensor | None
        if name == "scaled_dot_product_attention":
            scores = sampled_scores(args, kwargs)
            if scores is None:
                return
            weights = scores.softmax(-1)
            name, flat = "softmax", saturated_rows(scores, weights, -1)
            self._add_heads(module, producer, scores, weights)
        elif name == "softmax":
            dim = kwargs.get("dim", args[1] if len(args) > 1 else -1)
            if not isinstance(dim, int):
                return
            flat = saturated_rows(x, out, dim)
            if x.dim() == 4 and dim in (-1, 3):
                self._add_heads(module, producer, *sampled_rows(x, out))
        else:
            flat = flat_share(name, out, unit_dim(out.dim(), channels))
        if flat is not None:
            self._site(module, producer, name, len(flat)).add_flat(flat)

    def _on_choice(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        """Look at what may be a choice among experts."""
        if all(is_ordinary(part) for part in ([out] if isinstance(out, Tensor) else out) if isinstance(part, Tensor)):
            self._routing.chose(name, args, kwargs, out)

    def _on_attention(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: tuple[Tensor, ...]) -> None:
        """Look at the heads of torch's own module, whose softmax is not seen."""
        parts = [*out[:1], *(arg for arg in (*args, *kwargs.values()) if isinstance(arg, Tensor))]
        if not out[0].requires_grad or not all(is_ordinary(arrived(part)) for part in parts):
            return
        scores = projected_scores(args, kwargs)
        if scores is not None:
            module, producer, _ = self._place(out[0])
            self._add_heads(module, producer, scores, scores.softmax(-1))

    def _add_heads(self, module: str, producer: str, scores: Tensor, weights: Tensor) -> None:
        """Take the heads of an attention, named by the innermost module that has weights and holds it all."""
        if scores.dim() not in (3, 4):
            return
        inside = not module or producer.startswith(f"{module}.")
        path = producer if inside else module
        name = path if not inside and module in self.ran else path.rpartition(".")[0] or path
        self.heads.setdefault(name, []).append(head_sharpness(scores, weights))

    def _place(self, x: Tensor) -> tuple[str, str, bool]:
        """Return the running module, the layer that put ``x`` out (or ran last), and whether channels come first."""
        _, producer, channels = self._producers.get(id(x), (None, self._last, False))
        return self._running[-1] if self._running else "", producer, channels

    def _site(self, module: str, producer: str, function: str, units: int) -> TappedActivation:
        key = (module, producer, function, units)
        if key not in self._sites:
            self._sites[key] = TappedActivation(module or producer, function, len(self.layers))
        return self._sites[key]


def _first_tensor(out: Any) -> Tensor | None:
    """Return the tensor that a module put out, or the first of several."""
    if isinstance(out, Mapping):
        out = next((value for value in out.values() if isinstance(value, Tensor)), None)
    if isinstance(out, PackedSequence):
        return out.data
    if isinstance(out, (tuple, list)) and out:
        return _first_tensor(out[0])
    return out if isinstance(out, Tensor) else None


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(_widest(tensor))


def _widest(tensor: Tensor) -> torch.dtype:
    """Return the dtype to add up in: Apple's GPUs have no float64."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def _norm(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    if tensor.is_sparse:
        tensor = tensor.coalesce().values()
    # Single precision would square a gradient of 1e-23, nothing unusual at the bottom of a deep stack, to zero.
    norm: Tensor = torch.linalg.vector_norm(tensor, dtype=_widest(tensor))
    return norm
