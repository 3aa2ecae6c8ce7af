"""Every cell of the support matrix (``support/matrix.py``): one launch a column walks all rows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from helpers import support_cases as cases
from helpers import support_reference as reference
from helpers.support_reference import Holder, Plan, Series, Step
from lightning.pytorch import callbacks as lightning_callbacks
from support.matrix import CELLS, COLUMNS, ROWS, Column, NotOffered, Refused, Row, cell

from lightning_gradtools.initialization import initialize_, lsuv_, trace_signal_path

Weights = Sequence[Mapping[str, torch.Tensor]]


def networks(row: Row, way: cases.Way, plan: Plan) -> dict[str, torch.nn.Module]:
    """Return the networks that a run begins with."""
    torch.manual_seed(0)
    found = {name: cases.network().to(way.dtype) for name in way.networks}
    if row.callback == "WeightInitialization":
        ((_, arguments),) = row.callbacks
        everything, x = Holder(found), plan.probe[0][0].to(way.dtype)  # the share of rank 0
        path = trace_signal_path(everything, lambda: everything(x))
        generator = torch.Generator().manual_seed(arguments["seed"])
        with torch.no_grad():
            done = initialize_(everything, path, scheme=arguments["scheme"], force=True, generator=generator)
            if arguments["scheme"] == "lsuv":
                lsuv_(everything, lambda: everything(x), [each.name for each in done.layers if each.scheme == "lsuv"])
    return found


def expected(row: Row, way: cases.Way, rates: Series) -> tuple[Series, list[Mapping[str, torch.Tensor]]]:
    """Return what the oracle says of a row: its series, and the weights before the first step and after each."""
    plan = way.plan(row.poison)
    if way.foreign_rates:
        plan = replace(plan, rates=[(rates[step]["lr"], rates[step]["after"]) for step in range(len(plan.windows))])
    drawn = networks(row, way, plan)
    uncalled = {"unused": torch.nn.Linear(2, 2)} if way.unused else {}
    series: Series = {}
    weights: list[dict[str, torch.Tensor]] = [{} for _ in range(len(plan.windows) + 1)]
    for index, (name, net) in enumerate(drawn.items()):
        holder = Holder({name: net}, **uncalled)
        steps = reference.run(holder, plan, *row.callbacks[-1], index=index)
        for number, found in enumerate((steps[0].before, *(step.after for step in steps))):
            weights[number].update(found)
        suffix = f"/optimizer_{index}" if len(way.networks) > 1 else ""
        for number, values in measured(row, holder, plan, steps).items():
            named = {f"{key}{suffix}" if key.startswith(SUFFIXED) else key: value for key, value in values.items()}
            series.setdefault(number, {}).update(named)
    return series, weights


SUFFIXED = ("grad_norm", "weight_norm", "update_ratio", "grad_cosine", "grad_noise", "clip/")


def measured(row: Row, holder: Holder, plan: Plan, steps: Sequence[Step]) -> Series:
    """Return what a row reads, as the oracle has it."""
    name, arguments = row.callbacks[0]
    last = steps[-1].number
    if name == "GradientMonitor":
        return reference.monitored(steps, arguments, clipped=len(row.callbacks) > 1)
    if name == "PathologyDetector" and row.poison:
        poisoned = next(step.number for step in steps if math.isnan(step.loss))
        return {poisoned: {"nonfinite/step": 1.0, "nonfinite/input data": 1.0}}
    if name == "PathologyDetector":
        return reference.detected(steps)
    if name == "HessianSpectrum":
        return reference.curvature(holder, plan, steps, arguments)
    if name == "GradientClipping":
        skipped = 0 if plan.scaler else sum(step.skipped for step in steps)
        return {last: {"clip/skipped_steps": float(skipped)}}
    if name == "GradientCheck":
        return {0: {"passed": 1.0}}
    if name == "LastCheckpoint":
        return {0: {f"checkpoint/{key}": float(each.sum()) for key, each in steps[-1].after.items()}}
    return reference.rates(steps) if name in cases.SCHEDULES else {}


def worst_of_series(row: Row, found: Series, wanted: Series) -> tuple[float, str]:
    """Return the largest relative difference between what a row reads in both, and where it is."""
    worst, where = 0.0, ""
    for step in sorted({*found, *wanted}):
        here, there = (
            {key: value for key, value in series.get(step, {}).items() if key.startswith(row.reads)}
            for series in (found, wanted)
        )
        if (share := here.get("curvature/negative_share")) is not None and 0 <= share <= 1:
            here["curvature/negative_share"] = 1.0  # of one random vector
        if error := here.pop("curvature/trace_error", 0.0):
            off = abs(here["curvature/trace"] - there["curvature/trace"]) / error
            where = f"step {step}: the trace is off by {off:.1f} standard errors"
            here = there if off <= 5 else here
        if here.keys() != there.keys():
            more, less = sorted(here.keys() - there.keys()), sorted(there.keys() - here.keys())
            return math.inf, f"step {step}: unexpected {more[:3]}, missing {less[:3]}"
        size = max(map(abs, there.values()), default=0.0)
        for key in here:
            # what is next to nothing beside others of its kind may be off by more of itself
            error = abs(here[key] - there[key]) / (abs(there[key]) + 0.05 * size + 1e-12)
            error = math.inf if math.isnan(error) else error
            if error > worst or not where:
                worst, where = error, f"step {step}: {key} is {here[key]:.6g} for {there[key]:.6g}"
    return worst, where


def worst_of_weights(found: Weights, wanted: Weights, rounding: float) -> tuple[float, str]:
    """Return the largest difference of weights beyond ``rounding``, relative to how far they have moved."""
    if len(found) != len(wanted):
        return math.inf, f"{len(found) - 1} steps for {len(wanted) - 1}"
    worst, where = 0.0, ""
    for number, (here, there) in enumerate(zip(found, wanted, strict=True)):
        moved = max(float((there[name] - wanted[0][name]).abs().max()) for name in there)
        for name, value in there.items():
            largest = float(value.abs().max())
            off = max(0.0, float((here[name].double() - value).abs().max()) - largest * rounding)
            size = moved or largest
            error = math.inf if math.isnan(off) else off / size if off else 0.0
            if error > worst:
                worst, where = error, f"after step {number - 1}: {name} is off by {off:.3g}, moved by {moved:.3g}"
    return worst, where


def same_bits(found: Weights, bare: Weights) -> bool:
    return len(found) == len(bare) and all(
        one.keys() == other.keys()
        and all(torch.equal(one[name].nan_to_num(7), other[name].nan_to_num(7)) for name in one)
        for one, other in zip(found, bare, strict=True)
    )


def faults(row: Row, column: Column, found: cases.Outcome, bare: cases.Outcome, rank: int) -> list[str]:
    """Return what is not as the cell says, on one rank."""
    wanted = cell(row, column)
    if isinstance(wanted, Refused):
        if wanted.message in found.error and len(found.weights) <= 1:
            return []
        return [f"must be refused before the first step, and not {found.error!r} after {len(found.weights) - 1}"]
    if found.error:
        return [f"refused: {found.error}"]
    if column.name in cases.STAND_INS:
        return [] if isinstance(wanted, NotOffered) else ["must be refused"]
    wrong = []
    if row.callback == "lr_range_test":
        if not same_bits(found.weights[:1], found.weights[1:]):
            wrong.append("weights are not put back")
    elif not row.weights and not same_bits(found.weights, bare.weights):
        wrong.append("training differs from that without it")
    if found.failure is not None:
        wrong.append(f"disabled: {found.failure}")
    within, absent = column.spectrum_within if row.spectral else column.within, ()
    if isinstance(wanted, NotOffered):
        absent = wanted.keys or row.reads
        times = sum(wanted.said in each for each in found.said) if wanted.said else 1
        if times != 1 and (rank == 0 or times > 1):  # what all ranks know alike one of them may say for all
            wrong.append(f"must be said once: {wanted.said!r}; said: {found.said}")
    elif wanted.within is not None:
        within = wanted.within
    differences = errors(row, column, found, rank, absent)
    return wrong + [f"{error:.2g} > {within:.2g}, {where}" for error, where in differences if error > within]


def errors(
    row: Row, column: Column, found: cases.Outcome, rank: int, absent: tuple[str, ...]
) -> list[tuple[float, str]]:
    """Return the largest differences to the oracle, and where; what begins like ``absent`` must be."""
    way = cases.WAYS[column.name]
    if row.callback == "lr_range_test":
        rates = [each["lr"] for each in found.rates.values()]
        # other people's callbacks have no part in it
        plan = replace(way, windows=way.windows[:1], ranks_before=0).plan(False)
        (net,) = networks(row, way, plan).values()
        wanted = reference.losses_while_rates_grow(Holder({"net": net}), plan, rates)
        return [worst_of_series(row, found.series, wanted)]
    series, weights = expected(row, way, found.rates)
    measured = found.rates if row.callback in cases.SCHEDULES else found.series
    if way.ranks_before:  # what the run before has left out of its checkpoint begins anew
        weights = weights[way.batches :]
        if row.callback in ("GradientMonitor", *cases.SCHEDULES):
            series = {step: values for step, values in series.items() if step >= way.batches}
        if row.callback in ("GradientClipping", *cases.SCHEDULES):  # told by the step of the run
            measured = {step + way.batches: values for step, values in measured.items()}
    if way.foreign_rates and row.callback in cases.SCHEDULES:
        first = range(way.batches)
        series, measured = ({step: each[step] for step in first} for each in (reference_rates(row, way), measured))
    if way.averages and row.callback == "LastCheckpoint":
        series = {0: found.final}
    series = {step: {k: v for k, v in values.items() if not k.startswith(absent)} for step, values in series.items()}
    checks = []
    if row.reads and not absent and not any(key.startswith(row.reads) for values in series.values() for key in values):
        checks.append((math.inf, "there is nothing to compare"))
    if row.reads and not (rank > 0 and "grad_histogram/" in row.reads):  # one rank logs
        checks.append(worst_of_series(row, measured, series))
    if row.weights:
        checks.append(worst_of_weights(found.weights, weights, torch.finfo(way.dtype).eps))
    return checks


def reference_rates(row: Row, way: cases.Way) -> Series:
    return expected(row, replace(way, foreign_rates=False), {})[0]


@pytest.mark.parametrize(
    "column",
    [pytest.param(each, id=each.name, marks=[pytest.mark.slow] if each.slow else []) for each in COLUMNS],
)
def test_every_cell_of(column, tmp_path):
    if column.name == "EMA" and not hasattr(lightning_callbacks, "EMAWeightAveraging"):
        pytest.skip("this release of Lightning has no EMAWeightAveraging")
    wrong = []
    for rank, runs in enumerate(cases.walked(column.name, column.ranks, tmp_path)):
        for row in ROWS:
            bare = runs[cases.BARE[row.poison]]
            found = faults(row, column, runs[cases.key(row)], bare, rank)
            wrong += [f"{row.name} in {column.name}, rank {rank}: {fault}" for fault in found]
    assert not wrong, "\n" + "\n".join(wrong)


def test_every_entry_is_of_a_cell():
    rows = {each.name for each in ROWS} | {each.callback for each in ROWS}
    columns = {each.name for each in COLUMNS}
    for entry in CELLS:
        assert set(entry.rows) <= rows, entry
        assert set(entry.columns) <= columns, entry
    assert {each.name for each in COLUMNS} == {*cases.WAYS, *cases.STAND_INS}
