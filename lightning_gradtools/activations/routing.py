"""How much each expert of a mixture-of-experts layer is given.

A layer of that kind is known by what it does, not by its name: a top-k, an argmax or a softmax over as many choices as
there are experts, in a module that holds more than the experts, before the first of them runs. Experts are the members
of an ``nn.ModuleList`` or ``nn.ModuleDict`` with parameters of the same shapes, or slices of parameters
[experts, in, out] of one module.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

CHOICES = frozenset({"topk", "argmax", "max", "softmax", "gumbel_softmax"})
_LISTS = (nn.ModuleList, nn.ModuleDict)


@dataclass(eq=False)
class RoutedLayer:
    """What the router and the experts of one layer showed, summed over its calls.

    Attributes:
        name: path of the module that holds router and experts.
        members: path of the list of experts; that of the module with their weights where they are slices.
        experts: their number.
        sliced: whether they are slices, which only a choice shows to be experts.
        chosen: [experts] how often each was chosen; None without such a choice.
        probabilities: [experts] the sum of the probabilities given to each; None without a softmax.
        decisions: number of rows of that softmax.
        rows: number of rows that each was called with.
        routed: whether the experts ever ran after a choice among them.
    """

    name: str
    members: str
    experts: int
    sliced: bool = False
    chosen: Tensor | None = None
    probabilities: Tensor | None = None
    decisions: int = 0
    rows: list[int] = field(default_factory=list)
    routed: bool = False
    _pending: list[tuple[Tensor | None, Tensor | None, int]] | None = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows = self.rows or [0] * self.experts

    @property
    def is_even(self) -> bool:
        """Whether all experts have been called with as many rows."""
        return len(set(self.rows)) == 1

    def load(self) -> Tensor | None:
        """Return [experts] the share of each, None where nothing was routed.

        Who was chosen counts. Without a choice it is who was given how much, and where all experts see all rows, the
        weights in the sum over them.
        """
        given = self.chosen
        if given is None and self.probabilities is not None and not self.sliced:
            dense = all(rows == self.decisions for rows in self.rows)
            given = self.probabilities if dense else torch.tensor(self.rows, dtype=torch.float32)
        return None if given is None or not self.routed else given / given.sum().clamp(min=1e-12)

    def begin(self) -> None:
        """Take note that a call of the layer begins."""
        self._pending = []

    def chose(self, counts: Tensor | None, probabilities: Tensor | None, decisions: int) -> None:
        """Take note of a choice, which is this layer's if it is made before an expert runs."""
        if self._pending is not None:
            self._pending.append((counts, probabilities, decisions))

    def run(self, expert: int | None = None, rows: int = 0) -> None:
        """Take note that an ``expert`` runs, or all of them."""
        if expert is not None:
            self.rows[expert] += rows
        pending, self._pending = self._pending, None
        for counts, probabilities, decisions in pending or ():
            self.routed = True
            self.decisions += decisions
            if counts is not None:
                self.chosen = counts if self.chosen is None else self.chosen + counts
            if probabilities is not None:
                self.probabilities = probabilities if self.probabilities is None else self.probabilities + probabilities


class Routing:
    """Follows the choices among experts in one forward pass.

    Args:
        modules: those of a network by path, as of ``named_modules()``.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._scopes: dict[int, list[RoutedLayer]] = {}
        self._experts: dict[int, tuple[RoutedLayer, int]] = {}
        self._whole: dict[int, RoutedLayer] = {}
        for path, group in modules.items():
            if isinstance(group, _LISTS) and _are_alike(list(group.children())):
                self._add(modules, path, group, len(group))
            elif sizes := _slices(group):
                self._add(modules, path, group, sizes)
        self._running: list[int] = [id(modules[""])] if "" in modules and id(modules[""]) in self._scopes else []

    def _add(self, modules: Mapping[str, nn.Module], path: str, group: nn.Module, experts: int) -> None:
        scope = _around(modules, path, group)
        if scope is None:
            return
        layer = RoutedLayer(scope or path, path, experts, sliced=not isinstance(group, _LISTS))
        self._scopes.setdefault(id(modules[scope]), []).append(layer)
        if layer.sliced:
            self._whole[id(group)] = layer
        else:
            self._experts.update({id(each): (layer, i) for i, each in enumerate(group.children())})

    @property
    def layers(self) -> list[RoutedLayer]:
        """The layers whose experts were chosen from, in order."""
        return [each for layers in self._scopes.values() for each in layers if each.load() is not None]

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Take note that ``module`` begins to run."""
        key = id(module)
        if key in self._experts:
            layer, expert = self._experts[key]
            x = next((arg for arg in args if isinstance(arg, Tensor) and arg.dim()), None)
            layer.run(expert, 0 if x is None or not x.shape[-1] else x.numel() // x.shape[-1])
        if key in self._scopes:
            self._running.append(key)
            for each in self._scopes[key]:
                each.begin()

    def leave(self, module: nn.Module) -> None:
        """Take note that ``module`` has run."""
        key = id(module)
        if key in self._scopes and key in self._running:
            del self._running[len(self._running) - 1 - self._running[::-1].index(key) :]
        # Weights of experts may belong to the module that chooses, or to one that is called after it.
        if key in self._whole:
            self._whole[key].run()

    def watches(self, module: nn.Module) -> bool:
        """Say whether ``module`` is one of those that matter here."""
        key = id(module)
        return key in self._scopes or key in self._experts or key in self._whole

    def expects(self) -> bool:
        """Say whether a module is running that may choose."""
        return bool(self._running)

    def chose(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        """Look at a call that may be a choice among experts: one of :data:`CHOICES`."""
        x = args[0] if args else kwargs.get("input", kwargs.get("logits"))
        place = {"topk": 2, "gumbel_softmax": 4}.get(name, 1)
        default = -1 if name in ("topk", "gumbel_softmax") else None
        dim = kwargs.get("dim", args[place] if len(args) > place else default)
        if not isinstance(x, Tensor) or not isinstance(dim, int) or x.dim() < 2 or dim not in (-1, x.dim() - 1):
            return
        experts = x.shape[-1]
        waiting = [each for each in self._scopes[self._running[-1]] if each.experts == experts]
        if not waiting:
            return
        counts = probabilities = None
        decisions = 0
        if name.endswith("softmax"):
            probabilities = out.detach().reshape(-1, experts).float().sum(0)
            decisions = x.numel() // experts
        else:
            chosen = out if isinstance(out, Tensor) else out[1]
            if chosen.numel() == x.numel():  # all of them, in order of their scores
                return
            counts = torch.zeros(experts, device=x.device)
            counts.scatter_add_(0, chosen.detach().reshape(-1), counts.new_ones(chosen.numel()))
        for layer in waiting:
            layer.chose(counts, probabilities, decisions)


def _are_alike(members: list[nn.Module]) -> bool:
    if len(members) < 2 or any(type(each) is not type(members[0]) for each in members):
        return False
    if any(is_lazy(weight) for weight in members[0].parameters()):
        return False
    shapes = [[None if is_lazy(weight) else weight.shape for weight in each.parameters()] for each in members]
    return bool(shapes[0]) and all(each == shapes[0] for each in shapes)


def _slices(module: nn.Module) -> int:
    """Return the number of experts whose weights are slices of those of ``module``, 0 if there are none."""
    if type(module).__module__.startswith("torch."):
        return 0
    sizes = {len(weight) for weight in _sliced(module)}
    return sizes.pop() if len(sizes) == 1 and min(sizes) > 1 else 0


def _sliced(module: nn.Module) -> list[Tensor]:
    return [each for each in module.parameters(recurse=False) if not is_lazy(each) and each.dim() == 3]


def _around(modules: Mapping[str, nn.Module], path: str, group: nn.Module) -> str | None:
    """Return the path of the innermost module that holds other weights beside those of the experts."""
    if isinstance(group, _LISTS):
        inside = {id(weight) for weight in group.parameters()}
    else:
        inside = {id(weight) for weight in _sliced(group)}
    for outer in (path, *_outwards(path)):
        if outer in modules and any(id(weight) not in inside for weight in modules[outer].parameters()):
            return outer
    return None


def _outwards(path: str) -> Iterator[str]:
    while path:
        path = path.rpartition(".")[0]
        yield path
