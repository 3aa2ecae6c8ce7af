"""Every cell of the support matrix (``support/matrix.py``): one launch a column walks all rows."""

import math
from collections.abc import Mapping, Sequence

import pytest
import torch
from helpers import support_cases as cases
from helpers import support_reference as reference
from helpers.launcher import launch
from helpers.support_reference import Plan, Series, Step
from support.matrix import CELLS, COLUMNS, ROWS, Column, Equal, NotOffered, Refused, Row, cell


def expected(row: Row, way: cases.Way) -> tuple[Series, list[Step], Plan]:
    """Return what the oracle says of a row: its series, and its steps."""
    plan = way.plan(row.poison)
    torch.manual_seed(0)
    net = torch.nn.ModuleDict({"net": cases.network()})["net"]
    holder = torch.nn.Module()
    holder.net = net
    holder.forward = net.forward
    name, arguments = row.callbacks[-1]
    steps = reference.run(holder, plan, name, arguments)
    name, arguments = row.callbacks[0]
    series: Series = {}
    if name == "GradientMonitor":
        series = reference.monitored(steps, arguments, clipped=len(row.callbacks) > 1)
    elif name == "PathologyDetector" and row.poison:
        series = {3: {"nonfinite/input data": 1.0}}
    elif name == "PathologyDetector":
        series = reference.detected(steps, cases.SATURATED, reference.SAMPLED)
    elif name == "HessianSpectrum":
        series = reference.curvature(holder, plan, steps, (3, 7), arguments)
    elif name == "GradientClipping":
        series = {steps[-1].number: {"clip/skipped_steps": float(sum(step.skipped for step in steps))}}
    elif name == "GradientCheck":
        series = {0: {"passed": 1.0}}
    elif name == "LastCheckpoint":
        series = {0: {f"checkpoint/{key}": float(each.sum()) for key, each in steps[-1].after.items()}}
    elif name in ("WarmupCosineSchedule", "TorchLRScheduler"):
        series = reference.rates(steps)
    return series, steps, plan


def difference(found: float, wanted: float, size: float) -> float:
    """Return the relative difference of a number of a family of which ``size`` is the largest."""
    if math.isnan(found) or math.isnan(wanted):
        return 0.0 if math.isnan(found) and math.isnan(wanted) else math.inf
    return abs(found - wanted) / (abs(wanted) + 0.05 * size + 1e-12)


def worst_of_series(row: Row, found: Series, wanted: Series) -> tuple[float, str]:
    """Return the largest difference between what a row reads in both, and where it is."""
    worst, where = 0.0, ""
    for step in sorted({*found, *wanted}):
        here, there = (
            {key: value for key, value in series.get(step, {}).items() if key.startswith(row.reads)}
            for series in (found, wanted)
        )
        if row.callback == "HessianSpectrum" and "curvature/trace" in row.reads and here and there:
            error = abs(here["curvature/trace"] - there["curvature/trace"]) / (5 * here["curvature/trace_error"])
            if error > 1:
                return math.inf, f"step {step}: trace is off by {5 * error} standard errors"
            continue
        if here.keys() != there.keys():
            return math.inf, f"step {step}: keys {sorted(here)} for {sorted(there)}"
        size = max(map(abs, there.values()), default=0.0)
        for key in here:
            error = difference(here[key], there[key], size)
            if error > worst or not where:
                worst, where = error, f"step {step}: {key} is {here[key]:.6g} for {there[key]:.6g}"
    return worst, where or "nothing was measured"


def worst_of_weights(found: Sequence[Mapping[str, torch.Tensor]], steps: Sequence[Step]) -> tuple[float, str]:
    """Return the largest difference of weights, relative to how far they have moved."""
    wanted = [steps[0].before, *(step.after for step in steps)]
    if len(found) != len(wanted):
        return math.inf, f"{len(found)} weights for {len(wanted)}"
    worst, where = 0.0, ""
    for number, (here, there) in enumerate(zip(found, wanted, strict=True)):
        moved = max(float((there[name] - wanted[0][name]).abs().max()) for name in there)
        for name, value in there.items():
            rounding = 4 * torch.finfo(torch.float32).eps * float(value.abs().max())
            off = max(0.0, float((here[name].double() - value).abs().max()) - rounding)
            error = math.inf if math.isnan(off) else off / moved if off else 0.0
            if error > worst:
                worst, where = error, f"after step {number - 1}: {name} is off by {off:.3g}, moved by {moved:.3g}"
    return worst, where


def same_bits(found: Sequence[Mapping[str, torch.Tensor]], bare: Sequence[Mapping[str, torch.Tensor]]) -> bool:
    return len(found) == len(bare) and all(
        one.keys() == other.keys()
        and all(torch.equal(one[name].nan_to_num(7), other[name].nan_to_num(7)) for name in one)
        for one, other in zip(found, bare, strict=True)
    )


def faults(row: Row, column: Column, found: cases.Outcome, bare: cases.Outcome) -> list[str]:
    """Return what is not as the cell says, on one rank."""
    wanted = cell(row, column)
    if isinstance(wanted, Refused):
        return [] if wanted.message in found.error else [f"refused with {found.error!r}"]
    wrong = []
    if found.error:
        wrong.append(f"refused: {found.error}")
    if found.failure is not None and not isinstance(wanted, NotOffered):
        wrong.append(f"disabled: {found.failure}")
    if not row.weights and not same_bits(found.weights, bare.weights):
        wrong.append("training differs from that without it")
    if isinstance(wanted, NotOffered):
        if any(key.startswith(row.reads) for values in found.series.values() for key in values) and row.reads:
            wrong.append("it is offered")
        if wanted.said and sum(wanted.said in each for each in found.said) > 1:
            wrong.append("said more than once")
        return wrong
    within = wanted.within or (column.spectrum_within if row.spectral else column.within)
    series, steps, _ = expected(row, cases.WAYS[column.name])
    if row.callback in ("WarmupCosineSchedule", "TorchLRScheduler"):
        found.series = found.rates
    checks = []
    if row.reads:
        checks.append(worst_of_series(row, found.series, series))
    if row.weights:
        checks.append(worst_of_weights(found.weights, steps))
    wrong += [f"{error:.2g} > {within:.2g}, {where}" for error, where in checks if not error <= within]
    return wrong


@pytest.mark.parametrize(
    "column",
    [pytest.param(each, id=each.name, marks=[pytest.mark.slow] if each.slow else []) for each in COLUMNS],
)
def test_every_cell_of(column):
    ranks = [cases.walk(column.name)] if column.ranks == 1 else launch(cases.walk, column.name, world_size=column.ranks)
    wrong = []
    for row in ROWS:
        if row.callback == "lr_range_test":
            continue
        for number, runs in enumerate(ranks):
            bare = runs["without, poisoned" if row.poison else "without"]
            for fault in faults(row, column, runs[cases.key(row)], bare):
                wrong.append(f"{row.name} in {column.name}, rank {number}: {fault}")
    assert not wrong, "\n".join(wrong)
