"""Which activation each layer reads, and where residual branches end: seen in one forward pass."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from lightning_gradtools.initialization.gain import activation_gain
from lightning_gradtools.initialization.stored_weight import stored_in

WEIGHT_LAYERS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
NORM_LAYERS = (
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
)
_ACTIVATIONS = frozenset(
    {
        "relu",
        "relu6",
        "leaky_relu",
        "prelu",
        "rrelu",
        "elu",
        "selu",
        "celu",
        "gelu",
        "silu",
        "mish",
        "softplus",
    }
    | {"softsign", "tanh", "sigmoid", "hardtanh", "hardswish", "hardsigmoid", "logsigmoid", "tanhshrink"}
    | {"softshrink", "hardshrink", "threshold"}
)
# What neither changes the scale of a signal much nor mixes two.
_PASSES = frozenset(
    {"dropout", "alpha_dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout"}
    | {"view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "transpose", "permute", "movedim"}
    | {"contiguous", "to", "type_as", "float", "clone", "detach", "expand", "__getitem__"}
    | {"max_pool1d", "max_pool2d", "max_pool3d", "_max_pool1d", "_max_pool2d", "_max_pool3d"}
    | {"adaptive_max_pool1d", "adaptive_max_pool2d"}
)
_ADDS = frozenset({"add", "__add__", "__radd__", "__iadd__"})


@dataclass(frozen=True)
class SignalPath:
    """What a forward pass showed of a network."""

    reads: dict[str, tuple[str, float]]
    """For each weight layer that ran: the activation whose output it reads, and that activation's gain.
    ``("none", 1.0)`` where it reads the data, a normalised signal or a sum."""
    residual_ends: tuple[str, ...]
    """For each residual branch its last layer with a weight, be that a normalisation or not."""


@dataclass(frozen=True)
class _Signal:
    """Where a tensor comes from."""

    activation: tuple[str, float] = ("none", 1.0)
    end: str | None = None  # the layer that it is the output of, if nothing but _PASSES came after
    origins: frozenset[str | int] = frozenset()  # every layer, and every tensor from outside, that it came through


@dataclass
class _Flow(TorchFunctionMode):
    """Follows signals through functions, and through layers by the hooks ``enter`` and ``leave``."""

    signals: dict[int, tuple[Tensor, _Signal]] = field(default_factory=dict)
    reads: dict[str, tuple[str, float]] = field(default_factory=dict)
    residual_ends: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def of(self, tensor: Tensor) -> _Signal:
        if id(tensor) not in self.signals:
            self.put(tensor, _Signal(origins=frozenset({id(tensor)})))
        return self.signals[id(tensor)][1]

    def put(self, value: Any, signal: _Signal) -> None:
        for tensor in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(tensor, Tensor):
                self.signals[id(tensor)] = (tensor, signal)  # kept alive, so that its id stays its own

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [*args, *(kwargs or {}).values()]
        listed = [item for arg in given if isinstance(arg, (list, tuple)) for item in arg]  # of cat and stack
        sources = [arg for arg in given + listed if isinstance(arg, Tensor)]
        before = [self.of(source) for source in sources]
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        name = name if name.endswith("__") else name.rstrip("_")
        origins = frozenset[str | int]().union(*(signal.origins for signal in before))
        if name in _ACTIVATIONS and before:
            self.put(out, _Signal((name, _call_gain(func, args, kwargs or {})), None, origins))
        elif name in _PASSES and before:
            self.put(out, before[0])
        elif before:
            if name in _ADDS and len(before) == 2 and sources[0].shape == sources[1].shape:
                self.residual_ends += _branch_end(*before)
            self.put(out, _Signal(origins=origins))
        return out

    def enter(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if isinstance(module, WEIGHT_LAYERS):
            self.reads.setdefault(name, self.of(_input(args, kwargs)).activation)

    def leave(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        before = self.of(_input(args, kwargs))
        has_weight = isinstance(module, WEIGHT_LAYERS) or bool(stored_in(module))
        end = name if has_weight else before.end
        self.put(out, _Signal(end=end, origins=before.origins | {name}))


def _input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return (*args, *kwargs.values())[0]


def _call_gain(func: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
    """Return the gain of an activation as it was called: with its slope, its approximation and so on."""

    def plain(value: Any) -> Any:  # PReLU's slopes, one a channel, count by their mean
        return value.detach().double().mean().cpu().reshape(1) if isinstance(value, Tensor) else value

    options = {key: plain(value) for key, value in kwargs.items() if key not in ("input", "inplace")}
    return activation_gain(lambda z: func(z, *map(plain, args[1:]), **options))


def _branch_end(a: _Signal, b: _Signal) -> list[str]:
    """Return the end of the residual branch in ``a + b``, if it is one.

    Both sides then come from one signal, and the branch is the side that came through more layers since.
    """
    more_in_a = len(a.origins - b.origins) - len(b.origins - a.origins)
    branch = a if more_in_a > 0 else b
    if more_in_a == 0 or branch.end is None or not a.origins & b.origins:
        return []
    return [branch.end]


def trace_signal_path(module: nn.Module, run: Callable[[], object]) -> SignalPath:
    """Run ``run`` once and follow the signals through ``module``.

    Activations are seen whether they are modules or functions. Layers that ``module`` does not call as
    modules, such as those inside :class:`torch.nn.MultiheadAttention`, are not seen.

    Args:
        module: the network.
        run: runs the network on a batch, in the mode and on the device it is wanted.
    """
    flow = _Flow()
    hooks: list[RemovableHandle] = []
    for name, layer in module.named_modules():
        if isinstance(layer, (*WEIGHT_LAYERS, *NORM_LAYERS)):
            hooks.append(layer.register_forward_pre_hook(partial(flow.enter, name), with_kwargs=True))
            hooks.append(layer.register_forward_hook(partial(flow.leave, name), with_kwargs=True))
    try:
        with torch.no_grad(), flow:
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return SignalPath(flow.reads, tuple(dict.fromkeys(flow.residual_ends)))
