r"""What one pass shows of the contracts between data, network and loss: what each loss function is given, and by whom.

Which function put out what a loss is given is read from the graph that autograd has recorded, not guessed from values:
from the loss back through operations that only move or cut numbers (views, selections, casts, clamps) to the activation
functions.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from lightning_gradtools.activations.ordinary import is_ordinary

_INFINITE = float("inf")
# Activation function -> the least and the largest number that it puts out.
REACH: Mapping[str, tuple[float, float]] = {
    "relu": (0.0, _INFINITE),
    "relu6": (0.0, 6.0),
    "softplus": (0.0, _INFINITE),
    "sigmoid": (0.0, 1.0),
    "hardsigmoid": (0.0, 1.0),
    "softmax": (0.0, 1.0),
    "log_softmax": (-_INFINITE, 0.0),
    "tanh": (-1.0, 1.0),
    "hardtanh": (-1.0, 1.0),
    "gelu": (-0.17, _INFINITE),
    "silu": (-0.28, _INFINITE),
    "mish": (-0.31, _INFINITE),
    "hardswish": (-0.375, _INFINITE),
}
OVER_CLASSES = frozenset({"cross_entropy", "nll_loss"})
_SYMMETRIC = frozenset({"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"})
_MOVING = frozenset(
    f"{name}Backward"
    for name in (
        "View",
        "UnsafeView",
        "ReshapeAlias",
        "Squeeze",
        "Unsqueeze",
        "ToCopy",
        "Transpose",
        "T",
        "Permute",
        "Clone",
        "Select",
        "Slice",
        "Alias",
        "Expand",
        "Index",
        "Clamp",
        "ClampMin",
        "ClampMax",
    )
)
_TOLERANCE = 0.01  # of rows that sum to 1, which bfloat16 rounds by 0.004; and of a reach's bounds
_OFF = 0.05  # of 1, from which a row is no distribution
_MANY, _CALLS, _NODES = 2**20, 16, 200  # elements looked at, calls of one place, nodes of the graph
_CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
_WEIGHTED = (nn.Linear, nn.Bilinear, nn.RNNBase, nn.RNNCellBase, *_CONVOLUTIONS)
_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)


class _Made(NamedTuple):
    """What is remembered of an activation's output."""

    function: str
    single: bool  # a softmax over one unit
    source: Node | None


@dataclass
class TappedCall:
    """One loss function in one place, with sums over its calls.

    Attributes:
        function: its name in ``torch.nn.functional``.
        layer: path of the layer nearest before it.
        activations: the functions between that layer and the loss, the last one first.
        outputs: number of classes, or of columns of the prediction.
        constant: whether one of ``activations`` is a softmax over a single unit.
        crossed: whether prediction and target are stretched to a shape that neither of them has.
        shapes: of prediction and target where ``crossed``, in words.
        calls: how many there were.
        sums: of the measures, 0-d tensors by name.
    """

    function: str
    layer: str
    activations: tuple[str, ...]
    outputs: int
    constant: bool
    crossed: bool
    shapes: str
    calls: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)

    def add(self, measures: Mapping[str, Tensor]) -> None:
        """Add a call."""
        self.calls += 1
        for name, value in measures.items():
            self.sums[name] = value if name not in self.sums else self.sums[name] + value

    def means(self) -> dict[str, Tensor]:
        """Return the mean of each measure over the calls."""
        return {name: value / self.calls for name, value in self.sums.items()}


@dataclass
class TappedInput:
    """What the first layer with weights is given.

    Attributes:
        layer: its path.
        plain: whether these are numbers, and no normalisation comes before or right after the layer.
        measures: 0-d tensors by name.
    """

    layer: str
    plain: bool
    measures: dict[str, Tensor]


class ContractTap:
    """Listens to what a :class:`StepTap` sees; nothing is changed, copied or brought to the host.

    Of a large tensor a regular choice of samples is looked at, about a million elements of it.

    Args:
        modules: of the network by path, as of ``named_modules()``.

    Attributes:
        calls: of known loss functions, by place, in order of the first call.
        input: what the first layer with weights was given; None without one.
        fingerprints: [] of the batch, of the first layer's input and of the losses' targets, each a sum over all of
            them that another order or another number changes.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.calls: dict[tuple[Any, ...], TappedCall] = {}
        self.input: TappedInput | None = None
        self.fingerprints: dict[str, Tensor] = {}
        self._owners = {id(p): name for name, module in modules.items() for p in module.parameters(recurse=False)}
        self._made: dict[Node, _Made] = {}
        self._normalised = False  # whether a normalisation came before the first layer with weights
        self._settled = False  # whether that layer and what follows it are known

    def forget(self) -> None:
        """Let go of the graph."""
        self._made.clear()

    @torch.no_grad()
    def enter(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Take note of what the first layer with weights is given."""
        if self._settled or next(module.children(), None) is not None:
            return
        norm, owns = isinstance(module, _NORMS), next(module.parameters(recurse=False), None) is not None
        if self.input is not None:
            self._settled = (norm or owns) and name != self.input.layer
            self.input.plain = self.input.plain and not (self._settled and norm)
            return
        self._normalised = self._normalised or norm
        if owns and not norm:
            x = args[0] if args else None
            if not isinstance(x, Tensor) or not is_ordinary(x) or x.dim() < 2 or x.is_complex():
                self._settled = True
                return
            given = x.is_floating_point() and x.grad_fn is None
            plain = isinstance(module, _WEIGHTED) and given and not self._normalised
            features = 1 if isinstance(module, _CONVOLUTIONS) else -1
            self.input = TappedInput(name, plain, _input_measures(_few(x.detach()), features))
            self._add_fingerprint("input", x)

    @torch.no_grad()
    def add_batch(self, tensors: list[Any]) -> None:
        """Take the fingerprint of what a loader put out."""
        for each in tensors:
            if isinstance(each, Tensor) and is_ordinary(each) and not each.is_complex():
                self._add_fingerprint("batch", each)

    def _add_fingerprint(self, name: str, tensor: Tensor) -> None:
        known, new = self.fingerprints.get(name), fingerprint(tensor)
        self.fingerprints[name] = new if known is None else 2 * known + new.to(known.device)

    def activation(self, function: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        """Remember the output of an activation function."""
        if function == "hardtanh":
            function = _hard(args, kwargs)
        if not isinstance(out, Tensor) or out.grad_fn is None or function not in REACH:
            return
        single = False
        if function in ("softmax", "log_softmax"):
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            single = isinstance(dim, int) and out.dim() > 0 and out.shape[dim] == 1
        before = out.grad_fn.next_functions
        self._made[out.grad_fn] = _Made(function, single, before[0][0] if before else None)

    @torch.no_grad()
    def loss(self, function: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], last: str) -> None:
        """Measure what a loss function is given.

        Args:
            function: one of ``KNOWN_LOSSES``.
            args: of the call.
            kwargs: of the call.
            last: path of the layer that ran last.
        """
        predicted = args[0] if args else kwargs.get("input")
        target = args[1] if len(args) > 1 else kwargs.get("target")
        if not (isinstance(predicted, Tensor) and isinstance(target, Tensor)):
            return
        if function in _SYMMETRIC and target.requires_grad and not predicted.requires_grad:
            predicted, target = target, predicted
        if not predicted.requires_grad or target.requires_grad or not (is_ordinary(predicted) and is_ordinary(target)):
            return
        if predicted.is_complex() or target.is_complex() or not predicted.dim():
            return
        made = self._chain(predicted.grad_fn)
        names = tuple(each.function for each in made)
        over_classes = function in OVER_CLASSES
        crossed = not over_classes and _is_crossed(predicted, target)
        outputs = predicted.shape[_class_dim(predicted)] if over_classes else predicted[0].numel()
        key = function, names, outputs, self._layer(predicted.grad_fn, last)
        call = self.calls.get(key)
        if call is None:
            call = self.calls[key] = TappedCall(
                function=function,
                layer=key[-1],
                activations=names,
                outputs=outputs,
                constant=any(each.single for each in made),
                crossed=crossed,
                shapes=f"{list(predicted.shape)} and {list(target.shape)}" if crossed else "",
            )
        if call.calls >= _CALLS or crossed:
            return
        if call.calls == 0:
            self._add_fingerprint("target", target)
        if over_classes:
            call.add(_class_measures(predicted.detach(), target))
        elif predicted.shape == target.shape:
            call.add(_number_measures(target, REACH.get(names[0]) if names else None))

    def _chain(self, node: Node | None) -> list[_Made]:
        """Return the activations from ``node`` back, as long as nothing else comes between."""
        found = []
        for _ in range(_NODES):
            if node is None:
                break
            made = self._made.get(node)
            if made is not None:
                found.append(made)
                node = made.source
            elif node.name().rstrip("0123456789") in _MOVING and node.next_functions:
                node = node.next_functions[0][0]
            else:
                break
        return found

    def _layer(self, node: Node | None, last: str) -> str:
        """Return the path of the module whose parameter is nearest before ``node``; ``last`` if none is near."""
        waiting, seen = deque([node]), 0
        while waiting and seen < _NODES:
            node, seen = waiting.popleft(), seen + 1
            if node is None:
                continue
            owner = self._owners.get(id(getattr(node, "variable", None)))
            if owner is not None:
                return owner
            waiting.extend(before for before, _ in node.next_functions)
        return last


def fingerprint(tensor: Tensor) -> Tensor:
    """Return [] a sum of the elements, each with a weight of its own between -1 and 1."""
    values = tensor.detach().reshape(-1)
    values = values[:: -(-len(values) // _MANY)].float()
    weights = torch.arange(len(values), device=values.device, dtype=torch.float32).mul_(12.9898).sin_()
    return torch.dot(values, weights)


def _hard(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Return what ``hardtanh`` is with these bounds: ``nn.ReLU6`` is one."""
    given = {**dict(zip(("input", "min_val", "max_val"), args, strict=False)), **kwargs}
    bounds = given.get("min_val", -1.0), given.get("max_val", 1.0)
    return next((name for name in ("hardtanh", "relu6") if bounds == REACH[name]), "")


def _few(tensor: Tensor) -> Tensor:
    """Return ``tensor``, or of a large one samples at equal distances."""
    return tensor[:: min(len(tensor), -(-tensor.numel() // _MANY))]


def _class_dim(predicted: Tensor) -> int:
    return 1 if predicted.dim() > 1 else 0


def _is_crossed(predicted: Tensor, target: Tensor) -> bool:
    """Say whether every prediction of a batch meets every target, as those of shapes [n, 1] and [n] do."""
    if predicted.dim() == target.dim() or not target.dim():
        return False
    try:
        size: int = torch.broadcast_shapes(predicted.shape, target.shape).numel()
    except RuntimeError:  # the loss will say so itself
        return False
    return size > max(predicted.numel(), target.numel())


def _share(flags: Tensor) -> Tensor:
    return flags.float().mean()


def _class_measures(predicted: Tensor, target: Tensor) -> dict[str, Tensor]:
    rows, dim = _few(predicted).float(), _class_dim(predicted)
    log_sums = rows.logsumexp(dim)
    measures = {
        "samples": rows.new_full((), predicted.shape[0]),
        "simplex": _share((rows.amin(dim) >= 0) & ((rows.sum(dim) - 1).abs() < _TOLERANCE)),
        "heavy": _share(log_sums > 0.1),
        "light": _share(log_sums < -0.1),
    }
    if target.is_floating_point() and target.shape == predicted.shape:
        given = _few(target.detach()).float()
        measures["undistributed"] = _undistributed(given, dim)
        measures["lowest"], measures["highest"] = given.aminmax()
    return measures


def _undistributed(target: Tensor, dim: int) -> Tensor:
    return _share((target.sum(dim) - 1).abs() > _OFF)


def _number_measures(target: Tensor, reach: tuple[float, float] | None) -> dict[str, Tensor]:
    few = _few(target.detach()).float() if target.dim() else target.detach().float().reshape(1)
    rows = few.reshape(len(few), -1)  # [samples, columns]
    bits = (rows == 0) | (rows == 1)
    variance = rows.var(0, correction=0).mean()
    measures = {
        "samples": rows.new_full((), target.shape[0] if target.dim() else 1),
        "mean": rows.mean(),
        "square": rows.square().mean(),
        "spread": variance.sqrt(),
        "lowest": rows.amin(),
        "highest": rows.amax(),
        "whole": _share(rows == rows.round()),
        "bits": _share(bits),
        "one_hot": _share(bits.all(1) & (rows.sum(1) == 1)),
        "beyond": _share((rows < -0.3) | (rows > 1.3)),
    }
    if target.dim() == 2 and target.shape[1] > 1:
        measures["undistributed"] = _undistributed(rows, 1)
    if reach is not None:
        low, high = reach
        distance = torch.maximum(low - rows, rows - high)
        measures["outside"] = _share(distance > _TOLERANCE * min(1.0, high - low))
        all_together = rows.var(correction=0)
        measures["unreachable"] = distance.relu().square().mean() / all_together.clamp(min=1e-12)
    return measures


def _input_measures(x: Tensor, features: int) -> dict[str, Tensor]:
    wide = x.float()
    columns = wide.movedim(features, -1).reshape(-1, wide.shape[features])
    means, deviations = columns.mean(0), columns.std(0, correction=0)
    offsets = torch.where(means == 0, 0.0, means.abs() / deviations.clamp(min=1e-6 * means.abs().clamp(min=1e-30)))
    return {
        "samples": wide.new_full((), len(wide)),
        "scale": columns.square().mean(0).amax().sqrt(),
        "offset": offsets.median(),
        "mean": columns.mean(),
        "deviation": columns.std(correction=0),
        "alike": (x == x[:1]).all().float(),
    }
