"""How often a step makes the host wait for the device, by callback."""

import statistics
from collections.abc import Callable, Sequence
from functools import partial

import torch
from bench_gradients import HostSyncs
from lightning.pytorch import Callback

from gpu.check import Check, Outcome, Setting
from gpu.runs import Regression, failures, rows_of_numbers, train
from lightning_gradtools.callbacks import (
    GradientClipping,
    GradientMonitor,
    HessianSpectrum,
    PathologyDetector,
    WarmupCosineSchedule,
)

STEPS, WARM_UP = 40, 20  # by then the detector has made the samples of its first steps
EVERY = 4
SELDOM = 10**6

CASES: dict[str, tuple[Callable[[], list[Callback]], bool]] = {  # and whether the optimizer is fused
    "GradientMonitor": (lambda: [GradientMonitor()], True),
    "GradientMonitor, all options": (
        lambda: [GradientMonitor(weight_norm=True, update_ratio=True, cosine=True)],
        True,
    ),
    "GradientClipping, fused AdamW": (lambda: [GradientClipping(1.0)], True),
    "GradientClipping by z-score, fused AdamW": (lambda: [GradientClipping(zscore=2.5)], True),
    "GradientClipping, AdamW by default": (lambda: [GradientClipping(1.0)], False),
    "PathologyDetector": (lambda: [PathologyDetector(EVERY, table=False)], True),
    "HessianSpectrum": (lambda: [HessianSpectrum(every_n_steps=SELDOM)], True),
    "WarmupCosineSchedule": (lambda: [WarmupCosineSchedule()], True),
    "monitor, clipping, detector and schedule": (
        lambda: [
            GradientMonitor(),
            GradientClipping(1.0),
            PathologyDetector(EVERY, table=False),
            WarmupCosineSchedule(),
        ],
        True,
    ),
}


def waits(callbacks: Sequence[Callback], fused: bool, setting: Setting) -> list[int]:
    """Return how often each step of a run made the host wait."""
    syncs = HostSyncs()
    optimizer = partial(torch.optim.AdamW, fused=fused or None)
    batches = rows_of_numbers(STEPS)
    module = Regression(optimizer)
    train(module, [syncs.first, *callbacks, syncs], batches, setting, log_every_n_steps=EVERY)
    return syncs.counts


def split(counts: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the counts of ordinary steps, and of those on which a callback logs or samples, warm-up left out.

    The monitor logs the steps 3, 7, 11, …, the detector samples 0, 4, 8, …, and where it is in doubt 2, 6, 10, … too,
    which are therefore in neither.
    """
    late = range(WARM_UP, len(counts))
    ordinary = [counts[step] for step in late if step % EVERY == 1]
    return ordinary, [counts[step] for step in late if step % EVERY in (0, EVERY - 1)]


def measure(case: str, allowed: int, logged: bool, setting: Setting) -> Outcome:
    """Count the waits that the callbacks of ``case`` add, on steps of one kind."""
    callbacks, fused = CASES[case]
    made = callbacks()
    bare = split(waits([], fused, setting))[logged]
    found = split(waits(made, fused, setting))[logged]
    added = [mine - its for mine, its in zip(found, bare, strict=True)]
    broken = failures(made)
    most = max(added)
    return Outcome(
        measured=f"{most} at most, {statistics.mean(added):.2g} on average" + "".join(f"; {each}" for each in broken),
        ok=most <= allowed and not broken,
        figures={"most": most, "mean": statistics.mean(added), "bare": statistics.mean(bare)},
    )


def checks() -> list[Check]:
    """Return two rows a callback: ordinary steps, and steps that log or sample."""
    found = []
    for case, (callbacks, fused) in CASES.items():
        # One wait a step is what clipping costs where the optimizer takes no verdict on the device.
        waiting = 0 if fused else 1
        # One flush a callback that has something to log.
        flushes = sum(isinstance(each, (GradientMonitor, GradientClipping, PathologyDetector)) for each in callbacks())
        for logged, kind, allowed in ((False, "ordinary", waiting), (True, "logged", waiting + flushes)):
            found.append(
                Check(
                    name=f"host waits added to a step that is {kind}: {case}",
                    expected=f"{allowed}" if not logged else f"at most {allowed}",
                    measure=partial(measure, case, allowed, logged),
                    needs_cuda=True,
                )
            )
    return found
