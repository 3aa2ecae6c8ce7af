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
