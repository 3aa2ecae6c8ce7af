"""From the numbers of one logged step, still on the device, to what is logged: names, layers, ratios."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_gradtools.callbacks.layers import largest, norm_of_layers


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


@dataclass
class Report:
    """What one optimizer's step had to show.

    Attributes:
        step: Lightning's logging step.
        suffix: what ends every key, to tell optimizers apart.
        layers: the layer of each parameter, None for those not reported.
        sections: the quantities, each once.
        batch_sizes: samples of the small and of the big batch, where the noise scale was measured.
    """

    step: int
    suffix: str
    layers: list[str | None]
    sections: list[Section]
    batch_sizes: tuple[int, int] | None = None
    totals: dict[str, float] = field(default_factory=dict)
    per_parameter: dict[str, list[float]] = field(default_factory=dict)

    def read(self, values: Iterator[float]) -> None:
        """Take the numbers of all sections from ``values``, in which they stand in order."""
        for section in self.sections:
            if section.total is not None:
                self.totals[section.quantity] = next(values)
            if section.per_parameter is not None:
                self.per_parameter[section.quantity] = [next(values) for _ in range(len(section.per_parameter))]

    def scalars(self, norm_type: float, top_k: int | None) -> dict[str, float]:
        """Return what is logged, by key without prefix, after :meth:`read`."""
        everything = norm_of_layers(self.layers, self.per_parameter["grad_norm"], norm_type)
        shown = set(largest(everything, top_k))
        logged: dict[str, float] = {}

        def put(quantity: str, total: float | None, layers: dict[str, float]) -> None:
            if total is not None:
                logged[f"{quantity}/total{self.suffix}"] = total
            for layer, value in layers.items():
                if layer in shown:
                    logged[f"{quantity}/{layer}{self.suffix}"] = value

        put("grad_norm", self.totals["grad_norm"], everything)
        for quantity in ("grad_norm_clipped", "weight_norm"):
            if quantity in self.totals:
                put(quantity, self.totals[quantity], self._layers(quantity, norm_type))
        if "update_norm" in self.totals:
            put("update_ratio", *self._ratio("update_norm", "old_weight_norm", norm_type))
        if "inner_product" in self.per_parameter:
            put("grad_cosine", *self._cosine())
        return logged

    def _layers(self, quantity: str, norm_type: float) -> dict[str, float]:
        values = self.per_parameter.get(quantity)
        return {} if values is None else norm_of_layers(self.layers, values, norm_type)

    def _ratio(self, above: str, below: str, norm_type: float) -> tuple[float | None, dict[str, float]]:
        """Return the quotients of two norms; there is none where the lower one is 0."""
        upper, lower = self._layers(above, norm_type), self._layers(below, norm_type)
        total = self.totals[above] / self.totals[below] if self.totals[below] else None
        return total, {layer: upper[layer] / lower[layer] for layer in upper if lower[layer]}

    def _cosine(self) -> tuple[float | None, dict[str, float]]:
        """Return ⟨a, b⟩ / √(⟨a, a⟩⟨b, b⟩); there is none where a gradient is 0."""
        products = [self.per_parameter[name] for name in ("inner_product", "square_now", "square_before")]
        all_in_one: list[Sequence[str | None]] = [[""] * len(self.layers), self.layers]
        cosines = []
        for layers in all_in_one:
            ab, aa, bb = (norm_of_layers(layers, values, 1) for values in products)
            cosines.append({layer: ab[layer] / (aa[layer] * bb[layer]) ** 0.5 for layer in ab if aa[layer] * bb[layer]})
        return cosines[0].get(""), cosines[1]


def bring_to_host(reports: Sequence[Report]) -> None:
    """Read the numbers of all ``reports`` in one transfer, for which the host waits once."""
    columns = [vector for report in reports for section in report.sections for vector in section.flat()]
    values = iter(torch.cat([column.to(columns[0].device) for column in columns]).tolist())
    for report in reports:
        report.read(values)
