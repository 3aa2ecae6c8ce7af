"""The gradient norm of each layer over a run, as a table for the console."""

import math
import statistics
from collections.abc import Mapping, Sequence

_KEY = "grad_norm/"
_SHOWN = 12  # layers; of more, the first and the last half of these


def gradient_table(steps: Sequence[int], records: Sequence[Mapping[str, float]]) -> list[str]:
    """Return lines of a table: layers in their order down, first, median and last norm across.

    Args:
        steps: the logged steps, (n,).
        records: the values logged at each, (n,), as `GradientMonitor.history` has them; other keys are left out.

    Returns:
        No line if no layer was logged. The median is that of the finite norms.
    """
    layers = list(dict.fromkeys(key for record in records for key in record if key.startswith(_KEY)))
    # With several optimizers each has its total.
    layers = [key for key in layers if key != f"{_KEY}total" and not key.startswith(f"{_KEY}total/optimizer_")]
    if not layers:
        return []
    rows: list[tuple[str, list[float]]] = []
    for key in layers:
        norms = [record[key] for record in records if key in record]
        middle = statistics.median([norm for norm in norms if math.isfinite(norm)] or [math.nan])
        rows.append((key.removeprefix(_KEY), [norms[0], middle, norms[-1]]))
    if len(rows) > _SHOWN:
        half = _SHOWN // 2
        rows = [*rows[:half], (f"… {len(rows) - _SHOWN} more …", []), *rows[-half:]]
    title = "gradient norm of"
    width = max(len(title), *(len(row[0]) for row in rows))
    header = f"{title:<{width}}{f'step {steps[0]}':>12}{'median':>12}{f'step {steps[-1]}':>12}"
    return [header, *(f"{row[0]:<{width}}" + "".join(f"{norm:>12.3g}" for norm in row[1]) for row in rows)]
