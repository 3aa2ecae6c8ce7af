"""Which parameters are reported, under which layer, and which of the layers."""

import heapq
import math
import re
from collections.abc import Sequence

from lightning_gradtools.arguments import ArgumentError

Patterns = str | Sequence[str]


def compiled(name: str, patterns: Patterns) -> tuple[re.Pattern[str], ...]:
    """Return ``patterns`` (one or several) as regular expressions.

    Raises:
        ArgumentError: if they are no strings, or one is not a regular expression.
    """
    try:
        return tuple(re.compile(pattern) for pattern in ([patterns] if isinstance(patterns, str) else patterns))
    except (re.error, TypeError) as error:
        raise ArgumentError(f"{name}={patterns!r}: must be a regular expression or a list of them ({error})") from None


def matches(name: str, patterns: Sequence[re.Pattern[str]]) -> bool:
    """Say whether any of ``patterns`` is found somewhere in ``name``."""
    return any(pattern.search(name) for pattern in patterns)


class LayerGrouping:
    """The layer that each parameter is reported under.

    Args:
        group_by: ``"parameter"`` (each its own), ``"module"`` (the module that owns it) or a regular
            expression: its first group, or its whole match, is the layer; a parameter that it does not match
            is reported by itself.
        include: regular expressions searched for in the parameter's name; empty means all.
        exclude: the same, for those left out; it wins over ``include``.

    Raises:
        ArgumentError: if a pattern is not a regular expression.
    """

    def __init__(self, group_by: str, include: Patterns = (), exclude: Patterns = ()) -> None:
        self._by_module = group_by == "module"
        self._pattern = None if group_by in ("parameter", "module") else compiled("group_by", group_by)[0]
        self._include = compiled("include", include)
        self._exclude = compiled("exclude", exclude)

    def layer(self, name: str) -> str | None:
        """Return the layer of the parameter called ``name``, or None if it is left out."""
        if (self._include and not matches(name, self._include)) or matches(name, self._exclude):
            return None
        if self._by_module:
            return name.rpartition(".")[0] or name
        if self._pattern is not None and (match := self._pattern.search(name)):
            return match.group(1) if match.re.groups else match.group()
        return name


class LayerTable:
    """The layers of a list of parameters, prepared once: reporting happens every logged step.

    Args:
        layers: the layer of each parameter, None for one that is not reported.

    Attributes:
        names: the layers, each once, in the order of their first parameters.
    """

    def __init__(self, layers: Sequence[str | None]) -> None:
        members: dict[str, list[int]] = {}
        for position, layer in enumerate(layers):
            if layer is not None:
                members.setdefault(layer, []).append(position)
        self.names = list(members)
        self._members = list(members.values())
        self._as_given = self._members == [[position] for position in range(len(layers))]

    def norms(self, norms: Sequence[float], norm_type: float) -> Sequence[float]:
        """Return the norm of each layer from those of all parameters: their p-norm again."""
        if self._as_given:
            return norms
        return [_join([norms[position] for position in positions], norm_type) for positions in self._members]

    def sums(self, values: Sequence[float]) -> Sequence[float]:
        """Return the sum over each layer's parameters."""
        return [math.fsum(values[position] for position in positions) for positions in self._members]


def _join(norms: Sequence[float], norm_type: float) -> float:
    if any(math.isnan(norm) for norm in norms):
        return math.nan  # which `max` and `hypot` may lose
    if norm_type == math.inf:
        return max(norms)
    return math.hypot(*norms) if norm_type == 2 else math.fsum(norms)


def largest(values: Sequence[float], top_k: int) -> list[int]:
    """Return the positions of the ``top_k`` largest values, a NaN being the largest of all."""

    def size(position: int) -> float:
        return math.inf if math.isnan(values[position]) else values[position]

    return heapq.nlargest(top_k, range(len(values)), key=size)
