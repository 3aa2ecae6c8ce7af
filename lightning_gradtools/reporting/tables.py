"""Tables in plain text, for the console."""

import math
import statistics
from collections.abc import Mapping, Sequence

_SHOWN = 12  # layers; of more, the first and the last half of these


def gradient_table(
    steps: Sequence[int], records: Sequence[Mapping[str, float]], prefix: str = "", order: Sequence[str] = ()
) -> list[str]:
    """Return lines of a table: layers in their order down, first, median and last gradient norm across.

    Args:
        steps: the logged steps, (n,).
        records: the values logged at each, (n,), as `GradientMonitor.history` has them; other keys are left out.
        prefix: of the keys.
        order: keys of layers as they are to be listed; those that are not among them follow as they come.

    Returns:
        No line if no layer was logged. The median is that of the finite norms.
    """
    start = f"{prefix}grad_norm/"
    layers = layer_keys(records, start, order)
    if not layers:
        return []
    rows: list[tuple[str, list[float]]] = []
    for key in layers:
        norms = [record[key] for record in records if key in record]
        middle = statistics.median([norm for norm in norms if math.isfinite(norm)] or [math.nan])
        rows.append((key.removeprefix(start), [norms[0], middle, norms[-1]]))
    if len(rows) > _SHOWN:
        half = _SHOWN // 2
        rows = [*rows[:half], (f"… {len(rows) - _SHOWN} more …", []), *rows[-half:]]
    title = "gradient norm of"
    width = max(len(title), *(len(row[0]) for row in rows))
    header = f"{title:<{width}}{f'step {steps[0]}':>12}{'median':>12}{f'step {steps[-1]}':>12}"
    return [header, *(f"{row[0]:<{width}}" + "".join(f"{norm:>12.3g}" for norm in row[1]) for row in rows)]


def layer_keys(records: Sequence[Mapping[str, float]], start: str, order: Sequence[str] = ()) -> list[str]:
    """Return the keys in ``records`` that begin with ``start`` and are of a layer, in ``order`` as far as that goes."""
    there = dict.fromkeys(key for record in records for key in record if key.startswith(start))
    known = [key for key in dict.fromkeys(order) if key in there]
    keys = dict.fromkeys([*known, *there])
    # With several optimizers each has its total.
    return [key for key in keys if key != f"{start}total" and not key.startswith(f"{start}total/optimizer_")]
