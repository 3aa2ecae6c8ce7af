"""Steps that are not finite: verdicts on the device, and fp16's loss scaler."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from bench_gradients import HostSyncs
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor

from gpu.check import Check, Outcome, Setting
from gpu.runs import Batch, Regression, differing, failures, rows_of_numbers, train, weights
from lightning_gradtools.callbacks import GradientClipping, GradientMonitor

BAD = 5  # the batch that is not finite
STEPS = 10
NO_LIMIT = 1e9  # clips nothing, so that what is compared is the skip alone


class SkipByHand(Callback):
    """Takes the gradients of one batch away, so that the optimizer leaves everything as it is."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        if trainer.fit_loop.batch_idx == BAD:
            optimizer.zero_grad(set_to_none=True)


class Snapshots(Callback):
    """Keeps the weights after each step."""

    def __init__(self) -> None:
        self.after: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.after.append(weights(pl_module))


def with_a_bad_one(value: float) -> list[Batch]:
    """Return batches, one of them with a target of ``value``."""
    batches = rows_of_numbers(STEPS)
    x, y = batches[BAD]
    batches[BAD] = x, y.index_fill(0, torch.tensor([0]), value)
    return batches


def nan_step(fused: bool, setting: Setting) -> Outcome:
    """Compare a run with a NaN, watched by clipping, with one that skips that step by hand."""
    optimizer = partial(torch.optim.AdamW, fused=fused or None)
    batches = with_a_bad_one(float("nan"))
    ours, by_hand, clipping = Regression(optimizer), Regression(optimizer), GradientClipping(NO_LIMIT)
    trainer = train(ours, [clipping], batches, setting)
    train(by_hand, [SkipByHand()], batches, setting)
    skipped = int(trainer.callback_metrics["clip/skipped_steps"])
    apart = differing(weights(by_hand), weights(ours))
    finite = all(bool(weight.isfinite().all()) for weight in weights(ours).values())
    problems = failures([clipping])
    return Outcome(
        measured=f"{skipped} skipped, {apart} weight tensors differ" + "".join(f"; {each}" for each in problems),
        ok=skipped == 1 and apart == 0 and finite and not problems,
        figures={"skipped": skipped, "differing": apart},
    )


def nan_step_waits(setting: Setting) -> Outcome:
    """Count the waits of a step whose verdict stays on the device."""
    syncs = HostSyncs()
    module = Regression(partial(torch.optim.AdamW, fused=True))
    callbacks = [syncs.first, GradientClipping(NO_LIMIT), syncs]
    train(module, callbacks, with_a_bad_one(float("nan")), setting, log_every_n_steps=STEPS)
    found = syncs.counts[BAD]
    return Outcome(measured=str(found), ok=found == 0, figures={"waits": found})


def _fp16(setting: Setting, scale: float) -> MixedPrecision:
    scaler = torch.amp.GradScaler(setting.device, init_scale=scale, growth_interval=10**6)
    return MixedPrecision("16-mixed", setting.device, scaler=scaler)


def _totals(monitor: GradientMonitor) -> list[float]:
    return [record.values["grad_norm/total"] for record in monitor.history]


def unscaled_norms(fused: bool, setting: Setting) -> Outcome:
    """Compare the norms logged at a large loss scale with those in fp32: at the first step weights are the same."""
    optimizer = partial(torch.optim.AdamW, fused=fused or None)
    found: dict[str, list[float]] = {}
    settings: Mapping[str, dict[str, Any]] = {"fp16": {"plugins": [_fp16(setting, 2.0**10)]}, "fp32": {}}
    problems: Sequence[str] = []
    for name, options in settings.items():
        monitor = GradientMonitor(log_every_n_steps=1)
        train(Regression(optimizer), [monitor], rows_of_numbers(2), setting, **options)
        found[name] = _totals(monitor)
        problems = [*problems, *failures([monitor])]
    ratio = found["fp16"][0] / found["fp32"][0]
    return Outcome(
        measured=f"{ratio:.4f} of that in fp32" + "".join(f"; {each}" for each in problems),
        ok=abs(ratio - 1) < 0.01 and not problems,
        figures={"ratio": ratio},
    )


def overflow(scale: float, counted: int, fused: bool, setting: Setting) -> Outcome:
    """Train in fp16 with a batch whose gradients overflow, and see which steps moved weights and what was counted."""
    snapshots, clipping = Snapshots(), GradientClipping(NO_LIMIT)
    module = Regression(partial(torch.optim.AdamW, fused=fused or None))
    callbacks: list[Callback] = [clipping, snapshots]
    trainer = train(module, callbacks, with_a_bad_one(1e30), setting, plugins=[_fp16(setting, scale)])
    still = [
        step
        for step, (before, after) in enumerate(zip(snapshots.after, snapshots.after[1:], strict=False), start=1)
        if differing(before, after) == 0
    ]
    found = int(trainer.callback_metrics["clip/skipped_steps"])
    problems = failures(callbacks)
    return Outcome(
        measured=f"weights stood still at {still}, {found} counted" + "".join(f"; {each}" for each in problems),
        ok=still == [BAD] and found == counted and not problems,
        figures={"counted": found, "still": len(still)},
    )


def checks() -> list[Check]:
    """Return the rows."""
    found = []
    for fused, name in ((True, "fused AdamW"), (False, "AdamW by default")):
        found += [
            Check(
                name=f"a NaN step is skipped: {name}",
                expected="1 skipped, weights bit for bit as skipped by hand",
                measure=partial(nan_step, fused),
            ),
            Check(
                name=f"fp16 norms are without the loss scale: {name}",
                expected="within 1% of that in fp32",
                measure=partial(unscaled_norms, fused),
            ),
            Check(
                name=f"fp16 overflow at a loss scale of 1: {name}",
                expected=f"weights stand still at [{BAD}], 1 counted",
                measure=partial(overflow, 1.0, 1, fused),
            ),
            Check(
                name=f"fp16 overflow while the loss scale is searched: {name}",
                expected=f"weights stand still at [{BAD}], 0 counted",
                measure=partial(overflow, 2.0**4, 0, fused),
            ),
        ]
    waits = Check(name="host waits of a NaN step: fused AdamW", expected="0", measure=nan_step_waits, needs_cuda=True)
    return [*found, waits]
