"""Double precision, and what a spectrum leaves in memory."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from gpu.check import Check, Outcome, Setting
from gpu.runs import Regression, failures, memory_held, rows_of_numbers, train
from lightning_gradtools.callbacks import GradientClipping, GradientMonitor, HessianSpectrum, PathologyDetector
from lightning_gradtools.curvature import hessian_spectrum


class NormsByHand(Callback):
    """The norm of all gradients in float64 on the host, an oracle for the monitor."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        squares = [float(p.grad.cpu().double().square().sum()) for p in pl_module.parameters() if p.grad is not None]
        self.norms.append(math.fsum(squares) ** 0.5)


def double(by_trainer: bool, setting: Setting) -> Outcome:
    """Train in float64 with everything on, and compare the norms with those of float64 by hand."""
    monitor, oracle, spectrum = GradientMonitor(log_every_n_steps=1), NormsByHand(), HessianSpectrum(every_n_steps=4)
    callbacks: list[Callback] = [
        oracle,
        monitor,
        GradientClipping(1.0),
        PathologyDetector(2, table=False),
        spectrum,
    ]
    module: LightningModule = Regression()
    if not by_trainer:
        module = module.double()
    batches = rows_of_numbers(8, torch.float64)
    train(module, callbacks, batches, setting, precision="64-true" if by_trainer else "32-true")
    found = [record.values["grad_norm/total"] for record in monitor.history]
    apart = max(abs(mine / its - 1) for mine, its in zip(found, oracle.norms, strict=True))
    dtypes = {parameter.dtype for parameter in module.parameters()}
    problems = failures(callbacks)
    return Outcome(
        measured=f"norms apart by {apart:.0e}, {len(spectrum.history)} spectra" + "".join(f"; {x}" for x in problems),
        ok=apart < 1e-12 and len(spectrum.history) == 2 and not problems and dtypes == {torch.float64},
        figures={"apart": apart, "spectra": len(spectrum.history)},
    )


def function_leaves_nothing(setting: Setting) -> Outcome:
    """Compare what is held before and after ``hessian_spectrum``; a first one fills the libraries' workspaces."""
    module = Regression().to(setting.device)
    x, y = (part.to(setting.device) for part in rows_of_numbers(1)[0])

    def compute() -> None:
        found = hessian_spectrum(lambda: module.training_step((x, y), 0), module.parameters(), top_k=2, trace=20)
        assert found.converged

    compute()
    before = memory_held(setting)
    compute()
    grown = memory_held(setting) - before
    return Outcome(measured=f"{grown} bytes more", ok=grown == 0, figures={"bytes": grown})


class MemoryAfter(Callback):
    """What is held after some of the batches, by their index."""

    def __init__(self, setting: Setting, at: Sequence[int]) -> None:
        self._setting, self._at = setting, at
        self.held: dict[int, int] = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx in self._at:
            self.held[batch_idx] = memory_held(self._setting)


def callback_leaves_nothing(setting: Setting) -> Outcome:
    """Compare what is held after the first computation of ``HessianSpectrum`` and after the third."""
    spectrum, memory = HessianSpectrum(every_n_steps=2), MemoryAfter(setting, (1, 5))
    train(Regression(), [spectrum, memory], rows_of_numbers(6), setting)
    problems = failures([spectrum])
    grown = memory.held[5] - memory.held[1]
    return Outcome(
        measured=f"{grown} bytes more after {len(spectrum.history)}" + "".join(f"; {each}" for each in problems),
        ok=grown == 0 and len(spectrum.history) == 3 and not problems,
        figures={"bytes": grown},
    )


def checks() -> list[Check]:
    """Return the rows."""
    expected = "norms apart by < 1e-12, 2 spectra"
    return [
        Check(name="precision='64-true'", expected=expected, measure=lambda setting: double(True, setting)),
        Check(name="a module made .double()", expected=expected, measure=lambda setting: double(False, setting)),
        Check(name="memory after hessian_spectrum", expected="0 bytes more", measure=function_leaves_nothing),
        Check(
            name="memory after HessianSpectrum's third computation, over its first",
            expected="0 bytes more after 3",
            measure=callback_leaves_nothing,
        ),
    ]
