"""Gradient norms of the layers over depth: the picture in which vanishing is a slope."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CURVES = 8  # steps drawn, evenly spaced over those there are


def norms_over_depth(
    steps: Sequence[int], norms: Sequence[Mapping[str, float]], layers: Sequence[str] | None = None
) -> "Figure":
    """Draw the gradient norm of each layer over depth, on a logarithmic axis, one line a step, later ones darker.

    The chain rule multiplies a factor per layer, so a gradient that vanishes or explodes is a straight slope here.
    Norms that are zero or not finite leave a gap, and steps without any other are not drawn.

    Args:
        steps: the steps measured, (n,).
        norms: at each the norm of every layer by name, (n,).
        layers: the names in the order of depth; None for that in which ``norms`` has them.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    if layers is None:
        layers = list(dict.fromkeys(layer for record in norms for layer in record))
    curves = [
        (step, heights)
        for step, record in zip(steps, norms, strict=True)
        if not all(map(math.isnan, heights := [_height(record.get(layer, math.nan)) for layer in layers]))
    ]
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    drawn = sorted({round(i * (len(curves) - 1) / (_CURVES - 1)) for i in range(_CURVES)}) if curves else []
    for position, i in enumerate(drawn):
        step, heights = curves[i]
        shade = colormaps["viridis_r"](0.15 + 0.85 * position / max(1, len(drawn) - 1))
        axes.plot(range(len(layers)), heights, "o-", markersize=3, color=shade, label=f"step {step}")
    axes.set_yscale("log")
    every = -(-len(layers) // 24)  # as many names as stay legible
    axes.set_xticks(range(0, len(layers), every), layers[::every], rotation=60, ha="right", fontsize="x-small")
    axes.set(ylabel="gradient norm", title="gradient norm of each layer, input to output")
    axes.grid(alpha=0.3)
    if drawn:
        axes.legend(fontsize="x-small")
    return figure


def _height(norm: float) -> float:
    return norm if math.isfinite(norm) and norm > 0 else math.nan
