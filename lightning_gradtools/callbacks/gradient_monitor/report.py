"""From the numbers of logged steps, still on the device, to what is logged; and what there is to say about a run."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_gradtools.callbacks.gradient_monitor.layer_tables import Keys
from lightning_gradtools.callbacks.gradient_monitor.measurements.measurement import MeasuredStep, Measurement, PerLayer
from lightning_gradtools.gradients.layers import largest
from lightning_gradtools.gradients.packing import Packing

Slots = Mapping[str, Tensor]
Found = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class GradientRecord:
    """What the monitor found at one logged step.

    Attributes:
        step: Lightning's logging step, as on TensorBoard's horizontal axis.
        values: the logged values by key.
    """

    step: int
    values: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class PendingStep:
    """What one optimizer's logged step had to show, on the device.

    Attributes:
        index: position of the optimizer.
        measured: the step.
        keys: makes the keys of a quantity's total and of its layers.
        slots: the numbers of each measurement.
    """

    index: int
    measured: MeasuredStep
    keys: Keys
    slots: Sequence[Slots]


@dataclass(frozen=True, kw_only=True)
class Arrived:
    """What one transfer brought.

    Attributes:
        found: for each pending step, by measurement, its numbers by slot.
        anyone_failed: whether a rank said that it failed; False where the ranks did not meet.
    """

    found: Sequence[Sequence[Found]]
    anyone_failed: bool


@dataclass(frozen=True)
class Meeting:
    """What the ranks do together when numbers come to the host.

    Attributes:
        device: that the process group serves.
        steps: step and optimizer of all that were logged since the last time, the same on every rank.
        failed: whether this rank failed.
    """

    device: torch.device
    steps: Sequence[tuple[int, int]]
    failed: bool


def bring_to_host(
    pending: Sequence[PendingStep], measurements: Sequence[Measurement], meeting: Meeting | None
) -> Arrived:
    """Read the numbers of all ``pending`` steps in one transfer, for which the host waits once.

    Args:
        pending: the steps. On a rank that failed some may be missing.
        measurements: that measured them.
        meeting: of the ranks, in one reduction; None without. Then slots that ranks share are left out.
    """
    packing: Packing[tuple[int | str, ...]] = Packing(None if meeting is None else meeting.device)
    shared = [measurement.shared for measurement in measurements]
    for number, each in enumerate(pending):
        for position, slots in enumerate(each.slots):
            for name, tensor in slots.items():
                if name not in shared[position]:
                    packing.put((number, position, name), tensor)
    number_of = {(each.measured.step, each.index): number for number, each in enumerate(pending)}
    if meeting is not None:
        packing.put(("failed",), torch.tensor(float(meeting.failed), dtype=torch.float64), over_ranks=True)
        for step_and_index in meeting.steps:
            number = number_of.get(step_and_index, -1)
            for position, lengths in enumerate(shared):
                own = pending[number].slots[position] if number >= 0 else {}
                for name, length in lengths.items():
                    nothing = torch.zeros(length, dtype=torch.float64)
                    tensor = own.get(name, nothing).double()  # all ranks alike
                    packing.put((*step_and_index, position, name), tensor, over_ranks=True)
    values = packing.to_host()
    found: list[list[dict[str, list[float]]]] = [[{} for _ in measurements] for _ in pending]
    anyone_failed = False
    for key, numbers in values.items():
        match key:
            case ("failed",):
                anyone_failed = numbers[0] > 0
            case (int() as step, int() as index, int() as position, str() as name):
                if (step, index) in number_of:
                    found[number_of[step, index]][position][name] = numbers
            case (int() as number, int() as position, str() as name):
                found[number][position][name] = numbers
    return Arrived(found=found, anyone_failed=anyone_failed)


@dataclass
class Scalars:
    """What is logged of one optimizer's step, by key.

    Attributes:
        totals: numbers that belong to no single layer.
        layers: numbers of single layers.
    """

    totals: dict[str, float] = field(default_factory=dict)
    layers: dict[str, float] = field(default_factory=dict)


def scalars_of(
    step: PendingStep, found: Sequence[Found], measurements: Sequence[Measurement], top_k: int | None
) -> Scalars:
    """Return what is logged of ``step``.

    Args:
        step: the step.
        found: its numbers, by measurement and slot.
        measurements: the first measures the gradients, whose largest layers are reported.
        top_k: how many; None for all.
    """
    logged, singles = Scalars(), {}
    shown: Sequence[int] | None = None
    for measurement, numbers in zip(measurements, found, strict=True):
        values = measurement.scalars(numbers, step.measured)
        for name, value in values.items():
            if not isinstance(value, PerLayer):
                singles[step.keys.single(name)] = value
                continue
            if top_k is not None and shown is None:
                norms = [math.nan if norm is None else norm for norm in value.layers]
                shown = sorted(largest(norms, top_k))
            total_key, keys = step.keys.of(name)
            if value.total is not None:
                logged.totals[total_key] = value.total
            layers = value.layers
            if layers and shown is not None:
                keys, layers = [keys[position] for position in shown], [layers[position] for position in shown]
            # There are no values where all layers share one factor.
            logged.layers.update(
                {key: each for key, each in zip(keys, layers, strict=bool(layers)) if each is not None}
            )
    logged.totals.update(singles)
    return logged


def run_report(history: Sequence[GradientRecord], prefix: str) -> str:
    """Say in a few lines what the latest logged steps have shown.

    Args:
        history: of the monitor.
        prefix: of its keys.

    Returns:
        Logged steps; median and last of the total norm; the layers of largest and smallest norm at the last step;
        the share of clipped steps. What was not measured is left out.
    """
    if not history:
        return "no step was logged"
    last, start = history[-1].values, f"{prefix}grad_norm/"
    lines = [f"{len(history)} logged steps, {history[0].step} to {history[-1].step}"]
    totals = [key for key in last if key == f"{start}total" or key.startswith(f"{start}total/optimizer_")]
    for key in totals:
        norms = [record.values[key] for record in history if key in record.values]
        middle = statistics.median([norm for norm in norms if math.isfinite(norm)] or [math.nan])
        lines.append(f"{key}: median {middle:.3g}, last {last[key]:.3g}")
    layers = {key: norm for key, norm in last.items() if key.startswith(start) and key not in totals}
    finite = {key: norm for key, norm in layers.items() if math.isfinite(norm)}
    if len(finite) < len(layers):
        names = [key.removeprefix(start) for key in layers.keys() - finite.keys()]
        lines.append(f"not finite at the last step: {', '.join(sorted(names))}")
    for word, choose in (("largest", max), ("smallest", min)):
        if finite:
            key = choose(finite, key=finite.__getitem__)
            lines.append(f"{word} layer at the last step: {key.removeprefix(start)}, {finite[key]:.3g}")
    if (rate := last.get(f"{prefix}clip/rate")) is not None:
        lines.append(f"clipped: {rate:.0%} of the latest logged steps")
    return "\n".join(lines)
