"""Figures of learning rates: the planned curve of a run, and the loss of a range test."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def planned_curve(steps: Sequence[int], rates: Mapping[str, Sequence[float]], run_steps: int | None) -> "Figure":
    """Draw learning rates over optimizer steps.

    Args:
        steps: optimizer steps, (n,).
        rates: the learning rates of each parameter group at those steps, (n,), by the name in the legend.
        run_steps: the last step of the run, drawn as a vertical line; None if it is not known.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for name, values in rates.items():
        axes.plot(steps, values, label=name)
    if run_steps is not None:
        axes.axvline(run_steps, color="0.6", linestyle="--", linewidth=1, label="end of the run")
    axes.set(xlabel="optimizer step", ylabel="learning rate", title="planned learning rate")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure


def range_test_curve(rates: Sequence[float], losses: Sequence[float], suggestion: float | None) -> "Figure":
    """Draw the smoothed loss of a learning-rate range test over the learning rate.

    Args:
        rates: the learning rates tried, (n,).
        losses: the smoothed loss at each, (n,).
        suggestion: the learning rate to mark; None if there is none.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(rates, losses)
    axes.set_xscale("log")
    if suggestion is not None:
        axes.axvline(suggestion, color="C3", linestyle="--", linewidth=1, label=f"suggestion {suggestion:.3g}")
        axes.legend(fontsize="small")
    axes.set(xlabel="learning rate", ylabel="loss, smoothed", title="learning rate range test")
    axes.grid(alpha=0.3)
    return figure
