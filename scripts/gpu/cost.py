"""What each callback costs a step of GPT-2, and a spectrum, in time and memory."""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from bench_gradients import take_turns
from lightning.pytorch import Callback

from gpu.check import Check, Outcome, Setting
from gpu.runs import LanguageModel, failures, free_memory, rows_of_tokens, train
from lightning_gradtools.callbacks import (
    GradientClipping,
    GradientMonitor,
    HessianSpectrum,
    PathologyDetector,
    WarmupCosineSchedule,
)

STEPS_PER_TURN = 4
CASES: dict[str, Callable[[], list[Callback]]] = {
    "bare again (A/A)": list,
    "GradientMonitor, every step": lambda: [GradientMonitor(log_every_n_steps=1)],
    "GradientMonitor": lambda: [GradientMonitor(log_every_n_steps=50)],
    "GradientClipping": lambda: [GradientClipping(1.0)],
    "PathologyDetector": lambda: [PathologyDetector(table=False)],
    "HessianSpectrum, between computations": lambda: [HessianSpectrum(every_n_steps=10**6)],
    "WarmupCosineSchedule": lambda: [WarmupCosineSchedule()],
    "monitor, clipping, detector and schedule": lambda: [
        GradientMonitor(log_every_n_steps=50),
        GradientClipping(1.0),
        PathologyDetector(table=False),
        WarmupCosineSchedule(),
    ],
}
MIB = 2**20
SECONDS = 120  # of a spectrum; there may be room for too few vectors to converge


def precision(setting: Setting) -> str:
    """Return that of the runs whose time is taken."""
    return "bf16-mixed" if setting.device == "cuda" else "32-true"


def relative_step(case: str, setting: Setting) -> Outcome:
    """Have a bare run and one with the callbacks of ``case`` take turns, and compare their steps in each round."""
    callbacks = CASES[case]()
    steps = setting.rounds * STEPS_PER_TURN + 1
    batches = rows_of_tokens(steps, setting)

    def run(own: list[Callback], turnstile: Callback) -> Any:
        options = {"precision": precision(setting), "log_every_n_steps": 50}
        train(LanguageModel(setting), [*own, turnstile], batches, setting, **options)

    times = take_turns(
        {"bare": partial(run, []), "with": partial(run, callbacks)}, setting.rounds, STEPS_PER_TURN, setting.device
    )
    ratios = [mine / bare for mine, bare in zip(times["with"], times["bare"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    problems = failures(callbacks)
    peak = _peak(callbacks_of=case, setting=setting)
    bare = 1e3 * statistics.median(times["bare"])
    return Outcome(
        measured=f"{middle:.3f} [{low:.3f}, {high:.3f}] of {bare:.1f} ms{peak[0]}"
        + "".join(f"; {x}" for x in problems),
        ok=not problems,
        figures={"ratio": middle, "quartile_low": low, "quartile_high": high, "bare_ms": bare, **peak[1]},
    )


def _peak(callbacks_of: str, setting: Setting) -> tuple[str, dict[str, float]]:
    """Return the peak memory of a short run alone, in words and as a number; nothing on a CPU."""
    if setting.device != "cuda":
        return "", {}
    options = {"precision": precision(setting), "log_every_n_steps": 2}
    peaks = []
    for callbacks in ([], CASES[callbacks_of]()):
        free_memory(setting)
        train(LanguageModel(setting), callbacks, rows_of_tokens(6, setting), setting, **options)
        peaks.append(torch.cuda.max_memory_allocated() / MIB)
    return f"; peak {peaks[1]:.0f} MiB, bare {peaks[0]:.0f}", {"peak_mib": peaks[1], "bare_peak_mib": peaks[0]}


class StepPeak(Callback):
    """The largest memory, in bytes, that a step took before the spectrum."""

    def __init__(self) -> None:
        self.bytes = 0

    def on_train_batch_end(self, *args: Any) -> None:
        if not self.bytes and torch.cuda.is_available():
            self.bytes = torch.cuda.max_memory_allocated()
            torch.cuda.reset_peak_memory_stats()


def spectrum(setting: Setting) -> Outcome:
    """Compute the largest eigenvalue once, in a run on a quarter of the batch, and say what it took."""
    free_memory(setting)
    # Of what is free a third each for graphs, for vectors, and for all else.
    room = torch.cuda.mem_get_info()[0] // 3 if setting.device == "cuda" else None
    found = HessianSpectrum(every_n_steps=4, top_k=1, stability=False, memory=room, budget_seconds=SECONDS)
    steps, batches = StepPeak(), rows_of_tokens(4, setting, max(1, setting.batch_size // 4))
    train(LanguageModel(setting), [steps, found], batches, setting, precision=precision(setting))
    problems = failures([found])
    latest = found.latest
    if problems or latest is None:
        return Outcome(measured="; ".join(problems) or "nothing was computed", ok=False)
    figures = {
        "seconds": found.seconds,
        "gradients": latest.gradients_spent,
        "products": float(latest.products),
        "eigenvalue": float(latest.eigenvalues[0]),
        "converged": float(latest.converged),
    }
    peak = ""
    if setting.device == "cuda":
        figures["peak_mib"] = torch.cuda.max_memory_allocated() / MIB
        figures["step_peak_mib"] = steps.bytes / MIB
        peak = f"; peak {figures['peak_mib']:.0f} MiB, a step {figures['step_peak_mib']:.0f}"
    how = "converged" if latest.converged else "not converged"
    measured = f"{found.seconds:.2f} s, {latest.products} products, {latest.gradients_spent:.0f} gradients, {how}"
    return Outcome(measured=f"{measured}{peak}; {latest.method}", ok=True, figures=figures)


def checks() -> list[Check]:
    """Return a row a callback, and that of a spectrum."""
    found = [
        Check(
            name=f"GPT-2 step relative to bare: {case}",
            expected="a figure: median [quartiles]",
            measure=partial(relative_step, case),
        )
        for case in CASES
    ]
    return [
        *found,
        Check(name="GPT-2: one spectrum, top_k=1", expected="a figure: seconds, products, gradients", measure=spectrum),
    ]
