"""What a run leaves in its folder beside checkpoints and event files."""

import importlib.metadata
import json
import platform
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from lightning_gradtools.cli.summary import Summary

_PACKAGES = (
    "lightning-gradtools",
    "torch",
    "lightning",
    "torchmetrics",
    "tensorboard",
    "hydra-core",
    "numpy",
)


def record(cfg: DictConfig) -> None:
    """Write ``config.yaml`` (resolved) and ``versions.json`` (packages, Python, platform and command line)."""
    folder = Path(cfg.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True))
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    versions |= {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "command": shlex.join(sys.argv),
    }
    (folder / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")


def record_summary(folder: str, summary: Summary) -> None:
    """Write ``summary.json``, the table printed at the end; a number that is not finite stands as NaN or Infinity."""
    (Path(folder) / "summary.json").write_text(json.dumps(asdict(summary), indent=2) + "\n")
