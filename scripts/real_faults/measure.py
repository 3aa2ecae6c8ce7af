"""One run of a twin, watched by the detector."""

import logging
import math
import tempfile
import time
import warnings
from collections.abc import Iterable
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_gradtools.callbacks.pathology_detector import PathologyDetector
from real_faults.program import Program, Twin

TWINS = ("faulty", "repaired")
SERIOUS = ("warning", "critical")


class Witness(pl.Callback):
    """Notes the findings at ``warning`` or above, when a user first saw each, and what each said last.

    Args:
        detector: whose findings; it comes before this one among the callbacks.
    """

    def __init__(self, detector: PathologyDetector) -> None:
        self._detector = detector
        self.seen: dict[tuple[str, str], dict[str, Any]] = {}
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        self.losses.append(float(loss.detach()))
        self.look(trainer.global_step)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.look(trainer.global_step)

    def look(self, step: int) -> None:
        """Note what is found at ``step``."""
        for finding in self._detector.findings:
            if str(finding.severity) in SERIOUS:
                said = finding.as_dict()
                key = said["kind"], said["layer"]
                first = self.seen[key]["seen"] if key in self.seen else step
                self.seen[key] = {**said, "seen": first}


def run(program: Program, which: str, seed: int) -> dict[str, Any]:
    """Train a twin once and return what became of it and what the detector said."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    twin: Twin = getattr(program, which)
    pl.seed_everything(seed, verbose=False)
    data = twin.data()
    network = twin.network()
    module = twin.module(network, twin.loss(), twin.optimizer)
    detector = PathologyDetector(on_warning="log", on_critical="log", table=False)
    witness = Witness(detector)
    loader = DataLoader(TensorDataset(data.inputs, data.targets), batch_size=twin.batch_size, shuffle=True)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=twin.epochs,
            accelerator="cpu",
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            default_root_dir=folder,
            callbacks=[detector, witness],
        )
        error = ""
        try:
            trainer.fit(module, loader)
        except RuntimeError as raised:  # as PyTorch's losses do of NaN; what was said before counts
            error = str(raised)
            witness.look(trainer.global_step)
    module.eval()
    with torch.no_grad():
        score = program.score(module(data.inputs), data.wanted)
    last = witness.losses[-max(1, len(witness.losses) // 10) :] or [math.nan]
    return {
        "program": program.name,
        "twin": which,
        "seed": seed,
        "score": score,
        "loss": finite(sum(last) / len(last)),
        "steps": len(witness.losses),
        "seconds": time.perf_counter() - began,
        "error": error,
        "disabled": detector.failure,
        "findings": list(witness.seen.values()),
    }


def finite(value: float) -> float | None:
    """Return the number, or None if JSON has no word for it."""
    return value if math.isfinite(value) else None


def root(findings: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the finding that comes first among those that no other one has caused, or None if there is none."""
    known = list(findings)
    roots = [each for each in known if not each.get("cause")] or known
    return min(roots, key=lambda each: each["step"], default=None)
