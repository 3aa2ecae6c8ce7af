"""Which parameters are reported, under which layer, and which of the layers."""

import heapq
import math
import re
from collections.abc import Mapping, Sequence

from lightning_gradtools.arguments import ArgumentError

Patterns = str | Sequence[str]


def compiled(name: str, patterns: Patterns) -> tuple[re.Pattern[str], ...]:
    """Return ``patterns`` (one or several) as regular expressions.

    Raises:
        ArgumentError: if one is not a regular expression.
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    try:
        return tuple(re.compile(pattern) for pattern in patterns)
    except (re.error, TypeError) as error:
        raise ArgumentError(f"{name}={patterns!r}: must be regular expressions ({error})") from None


def matches(name: str, patterns: Sequence[re.Pattern[str]]) -> bool:
    """Say whether any of ``patterns`` is found somewhere in ``name``."""
    return any(pattern.search(name) for pattern in patterns)


class LayerGrouping:
    """The layer that each parameter is reported under.

    Args:
        group_by: ``"parameter"`` (each its own), ``"module"`` (the module that owns it) or a regular
            expression: its first group, or its whole match, is the layer; a parameter that it does not match
        is reported by itself. include: regular expressions searched for in the parameter's name; empty means
        all. exclude: the same, for those left out; it wins over ``include``.

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


def norm_of_layers(layers: Sequence[str | None], norms: Sequence[float], norm_type: float) -> dict[str, float]:
    """Return the norm of each layer from those of its parameters: their p-norm again; None is left out."""
    members: dict[str, list[float]] = {}
    for layer, norm in zip(layers, norms, strict=True):
        if layer is not None:
            members.setdefault(layer, []).append(norm)
    return {layer: found[0] if len(found) == 1 else _join(found, norm_type) for layer, found in members.items()}


def _join(norms: Sequence[float], norm_type: float) -> float:
    if any(math.isnan(norm) for norm in norms):
        return math.nan  # which `max` and `hypot` may lose
    if norm_type == math.inf:
        return max(norms)
    return math.hypot(*norms) if norm_type == 2 else math.fsum(norms)


def largest(norms: Mapping[str, float], top_k: int | None) -> Mapping[str, float]:
    """Return the ``top_k`` layers of largest norm (NaN counts as largest); None returns every layer."""
    if top_k is None:
        return norms

    def size(layer: str) -> float:
        return math.inf if math.isnan(norms[layer]) else norms[layer]

    return {layer: norms[layer] for layer in heapq.nlargest(top_k, norms, key=size)}
