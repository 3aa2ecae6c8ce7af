"""From the numbers of one logged step, still on the device, to what is logged: names, layers, ratios."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_gradtools.gradients.layers import LayerTable, largest
from lightning_gradtools.gradients.norms import tensor_norms, total_norm


@dataclass(frozen=True)
class Section:
    """One quantity of a step.

    Attributes:
        quantity: its name, the part of the key before the slash.
        total: [] its value for all parameters together, or None.
        per_parameter: [n] its value for each parameter, or None.
    """

    quantity: str
    total: Tensor | None = None
    per_parameter: Tensor | None = None

    def flat(self) -> list[Tensor]:
        """Return what there is as vectors: the total first."""
        total = [] if self.total is None else [self.total.reshape(1)]
        return total if self.per_parameter is None else [*total, self.per_parameter]


def norms_of(quantity: str, tensors: Sequence[Tensor], norm_type: float) -> Section:
    """Return the norms of ``tensors``, one a parameter, and of all together."""
    norms = tensor_norms([tensor.detach() for tensor in tensors], norm_type)
    return Section(quantity, total_norm(norms, norm_type), norms)


@dataclass
class Report:
    """What one optimizer's step had to show.

    Attributes:
        step: Lightning's logging step.
        table: the layers of the parameters.
        keys: makes the keys of a quantity's total and of its layers.
        sections: the quantities, each once.
        batch_sizes: samples of the small and of the big batch, where the noise scale was measured.
        totals: after :func:`bring_to_host`, the totals by quantity.
        per_parameter: after :func:`bring_to_host`, the values of the parameters by quantity.
    """

    step: int
    table: LayerTable
    keys: "Keys"
    sections: list[Section]
    batch_sizes: tuple[int, int] | None = None
    totals: dict[str, float] = field(default_factory=dict)
    per_parameter: dict[str, list[float]] = field(default_factory=dict)

    def read(self, values: list[float], start: int) -> int:
        """Take the numbers of all sections from ``values`` at ``start``; return where they end."""
        for section in self.sections:
            if section.total is not None:
                self.totals[section.quantity] = values[start]
                start += 1
            if section.per_parameter is not None:
                end = start + len(section.per_parameter)
                self.per_parameter[section.quantity] = values[start:end]
                start = end
        return start

    def scalars(self, norm_type: float, top_k: int | None) -> tuple[dict[str, float], dict[str, float]]:
        """Return the totals and the layers to log, by key."""
        shown = None
        if top_k is not None:
            shown = largest(self.table.norms(self.per_parameter["grad_norm"], norm_type), top_k)
        totals: dict[str, float] = {}
        layers: dict[str, float] = {}

        def put(quantity: str, total: float | None, values: Sequence[float | None]) -> None:
            total_key, keys = self.keys.of(quantity)
            if total is not None:
                totals[total_key] = total
            if values and shown is not None:
                keys, values = (
                    [keys[position] for position in shown],
                    [values[position] for position in shown],
                )
            # There are no values where all layers share one factor.
            layers.update({key: value for key, value in zip(keys, values, strict=False) if value is not None})

        for quantity in ("grad_norm", "grad_norm_clipped", "weight_norm"):
            if quantity in self.totals:
                put(quantity, self.totals[quantity], self._layers(quantity, norm_type))
        if "update_norm" in self.totals:
            upper, lower = (self._layers(each, norm_type) for each in ("update_norm", "old_weight_norm"))
            total = _quotient(self.totals["update_norm"], self.totals["old_weight_norm"])
            put("update_ratio", total, list(map(_quotient, upper, lower)))
        if "inner_product" in self.per_parameter:
            products = [self.per_parameter[each] for each in ("inner_product", "square_now", "square_before")]
            cosines = list(map(_cosine, *map(self.table.sums, products)))
            put("grad_cosine", _cosine(*map(math.fsum, products)), cosines)
        return totals, layers

    def _layers(self, quantity: str, norm_type: float) -> Sequence[float]:
        values = self.per_parameter.get(quantity)
        return () if values is None else self.table.norms(values, norm_type)


class Keys:
    """The logged keys of one list of layers, made once.

    Args:
        names: the layers.
        prefix: put before every key.
        suffix: put behind every key.
    """

    def __init__(self, names: Sequence[str], prefix: str, suffix: str) -> None:
        self._names, self._prefix, self._suffix = names, prefix, suffix
        self._known: dict[str, tuple[str, list[str]]] = {}

    def of(self, quantity: str) -> tuple[str, list[str]]:
        """Return the key of the total of ``quantity`` and those of its layers."""
        if quantity not in self._known:
            start, end = f"{self._prefix}{quantity}/", self._suffix
            self._known[quantity] = f"{start}total{end}", [f"{start}{name}{end}" for name in self._names]
        return self._known[quantity]


def _quotient(above: float, below: float) -> float | None:
    return above / below if below else None


def _cosine(product: float, square: float, other_square: float) -> float | None:
    return _quotient(product, (square * other_square) ** 0.5)


def bring_to_host(reports: Sequence[Report]) -> None:
    """Read the numbers of all ``reports`` in one transfer, for which the host waits once."""
    columns = [vector for report in reports for section in report.sections for vector in section.flat()]
    device = columns[0].device
    values = torch.cat([column if column.device == device else column.to(device) for column in columns]).tolist()
    start = 0
    for report in reports:
        start = report.read(values, start)
