"""Which parameters are reported, under which layer, and which of the layers."""

import heapq
import math
import re
from collections.abc import Collection, Sequence

from lightning_gradtools.arguments import ArgumentError, suggest

Patterns = str | Sequence[str]


def compiled(name: str, patterns: Patterns) -> tuple[re.Pattern[str], ...]:
    """Return ``patterns`` (one or several) as regular expressions.

    Raises:
        ArgumentError: if one is not a regular expression.
    """
    each = [patterns] if isinstance(patterns, str) else patterns
    if not isinstance(each, Sequence) or not all(isinstance(pattern, str) for pattern in each):
        raise ArgumentError(f"{name}={patterns!r}: must be a regular expression or a list of them")
    try:
        return tuple(re.compile(pattern) for pattern in each)
    except re.error as error:
        raise ArgumentError(f"{name}={patterns!r}: must be regular expressions ({error})") from None


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
        if not isinstance(group_by, str):
            raise ArgumentError(f"group_by={group_by!r}: {_GROUP_BY}")
        self._group_by = group_by
        self._by_module = group_by == "module"
        self._pattern = None if group_by in ("parameter", "module") else compiled("group_by", group_by)[0]
        self._patterns = {"include": include, "exclude": exclude}
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

    def check(self, names: Sequence[str]) -> None:
        """Refuse patterns that cannot be meant for parameters of these ``names``.

        Raises:
            ArgumentError: if there are parameters, and ``include`` and ``exclude`` leave none of them, or ``group_by``
                is found in none.
        """
        some = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        if self._include and names and not any(matches(name, self._include) for name in names):
            raise ArgumentError(
                f"include={self._patterns['include']!r}: must be found in the name of a parameter ({some})"
            )
        if self._exclude and names and not any(self.layer(name) for name in names):
            raise ArgumentError(f"exclude={self._patterns['exclude']!r}: must leave a parameter to report (of {some})")
        if self._pattern is not None and names and not any(map(self._pattern.search, names)):
            near = suggest(self._group_by, ("parameter", "module"))
            raise ArgumentError(f"group_by={self._group_by!r}: {_GROUP_BY} ({some}){near}")


_GROUP_BY = "must be 'parameter', 'module' or a regular expression found in the name of a parameter"


def names_in_keys(layers: Sequence[str], reserved: Collection[str]) -> list[str]:
    """Return the name of each of ``layers`` in logged keys, where ``<quantity>/<reserved>`` means something else.

    Almost always its own. One that is reserved, or begins with a reserved part and a slash, has ``_`` behind that
    part, as often as it takes to be no other layer's.
    """
    names = list(layers)
    for position, layer in enumerate(layers):
        part, slash, rest = layer.partition("/")
        if part in reserved:
            while part in reserved or f"{part}{slash}{rest}" in names:
                part += "_"
            names[position] = f"{part}{slash}{rest}"
    return names


class LayerTable:
    """The layers of a list of parameters, prepared once: reporting happens every logged step.

    Args:
        layers: [n] the layer of each parameter, None for one that is not reported.
        depth: [n] numbers in whose order layers are listed, by the smallest of each; None for that of ``layers``.

    Attributes:
        names: the layers, each once, in the order of depth.
    """

    def __init__(self, layers: Sequence[str | None], depth: Sequence[int] | None = None) -> None:
        members: dict[str, list[int]] = {}
        order = range(len(layers)) if depth is None else sorted(range(len(layers)), key=depth.__getitem__)
        for position in order:
            layer = layers[position]
            if layer is not None:
                members.setdefault(layer, []).append(position)
        self.names = list(members)
        self._members = list(members.values())
        self._as_given = self._members == [[position] for position in range(len(layers))]
        self._alone = all(len(positions) == 1 for positions in self._members)

    def norms(self, norms: Sequence[float], norm_type: float) -> Sequence[float]:
        """Return the norm of each layer from those of all parameters: their p-norm again."""
        if self._as_given:
            return norms
        if self._alone:
            return [norms[position] for (position,) in self._members]
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
