"""What a run leaves in its folder beside checkpoints and event files."""

import csv
import importlib.metadata
import json
import platform
import shlex
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from omegaconf import DictConfig, OmegaConf

from lightning_gradtools._lightning.flavour import is_a
from lightning_gradtools.cli.resume import VERSIONS
from lightning_gradtools.cli.summary import Summary

# What a part of a run writes at its end.
SUMMARY = "summary.json"
_PACKAGES = (
    "lightning-gradtools",
    "torch",
    "lightning",
    "torchmetrics",
    "tensorboard",
    "hydra-core",
    "numpy",
)


@dataclass(frozen=True)
class Progress:
    """How far a checkpoint is.

    Attributes:
        epochs: epochs that were completed.
        steps: optimizer steps that were taken.
    """

    epochs: int
    steps: int

    @classmethod
    def of(cls, path: Path) -> "Progress":
        """Read it from the checkpoint at ``path``, a file or a folder of shards, without its weights."""
        file = path / "meta.pt" if path.is_dir() else path
        # As Lightning reads it: whoever goes on with a run trusts its checkpoint.
        saved = torch.load(file, map_location="cpu", mmap=True, weights_only=False)
        epochs = saved["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
        return cls(epochs=epochs, steps=saved["global_step"])

    def is_the_end(self, trainer: lightning.Trainer) -> bool:
        """Say whether ``trainer`` has nothing left to do from here."""
        return 0 <= (trainer.max_epochs or -1) <= self.epochs or 0 <= trainer.max_steps <= self.steps

    def __str__(self) -> str:
        return f"{self.epochs} epochs, {self.steps} optimizer steps"


def record(cfg: DictConfig) -> None:
    """Write ``config.yaml`` (resolved) and ``versions.json`` (packages, Python, platform and command line)."""
    folder = Path(cfg.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    versions |= {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "command": shlex.join(sys.argv),
    }
    _write(folder / VERSIONS, versions)


def record_summary(folder: str, summary: Summary) -> None:
    """Write ``summary.json``, the table printed at the end; a number that is not finite stands as NaN or Infinity."""
    _write(Path(folder) / SUMMARY, asdict(summary))


def is_finished(folder: str, progress: Progress) -> bool:
    """Say whether what follows training was done for the weights of a last checkpoint that is at ``progress``."""
    path = Path(folder) / SUMMARY
    if not path.is_file():  # killed before its end
        return False
    # A summary of a release that did not say it was written of all that is done after training too.
    return bool(json.loads(path.read_text()).get("finished_at", progress.steps) == progress.steps)


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write ``content``; what an earlier part of the run wrote there is kept in the list ``earlier``."""
    if path.exists():
        before = json.loads(path.read_text())
        content = content | {"earlier": [*before.pop("earlier", []), before]}
    _replace(path, json.dumps(content, indent=2) + "\n")


def _replace(path: Path, text: str) -> None:
    """Write ``text``, so that a kill in the middle leaves what was there."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text)
    part.replace(path)


def append_to_csv(loggers: Iterable[Any], steps: int) -> None:
    """Let each CSVLogger go on in its file, which it would begin anew; what was logged after ``steps`` is dropped."""
    for logger in loggers:
        if not is_a(logger, "CSVLogger") or not (path := Path(logger.log_dir) / "metrics.csv").is_file():
            continue
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            rows = [row for row in reader if int(row["step"]) < steps]
            keys = list(reader.fieldnames or [])
        writer = logger.experiment  # removes the file
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, keys)
            table.writeheader()
            table.writerows(rows)
        writer.metrics_keys = keys
