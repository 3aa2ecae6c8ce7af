"""The figure of a spectrum."""

from typing import TYPE_CHECKING

import torch

from lightning_gradtools.curvature import Spectrum

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def spectral_density(spectrum: Spectrum) -> "Figure":
    """Draw the density of eigenvalues, on a logarithmic axis, with those that were computed as ticks below it.

    Args:
        spectrum: one with a density.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    density = spectrum.density
    if density is not None:
        low, high = float(density.support[0]), float(density.support[-1])
        margin = 0.05 * (high - low or 1.0)
        grid = torch.linspace(low - margin, high + margin, 1000, dtype=torch.float64)
        axes.semilogy(grid.tolist(), density.smoothed(grid).clamp(min=1e-12).tolist())
        axes.set_ylim(bottom=0.1 / spectrum.dimension / margin)
    axes.plot(
        spectrum.eigenvalues.tolist(),
        [0.02] * len(spectrum.eigenvalues),
        "|",
        color="C3",
        transform=axes.get_xaxis_transform(),
        label="computed",
    )
    axes.set(xlabel="eigenvalue of the Hessian", ylabel="density", title="spectral density")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure
