"""One run of a recipe: recorded, or watched by the detector; kept in a folder so that nothing is run twice."""

import ast
import json
import logging
import time
import warnings
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from detection.recipe import Recipe
from detection.rivals import Rivals
from detection.trace import Trace
from lightning_gradtools.tasks.data.loading import TensorPairs, batch_loader

HERE = Path(__file__).parent
PACKAGE = HERE.parents[1] / "lightning_gradtools"
RECIPES = (
    "data",
    "networks",
    "recipes",
    "corruptions",
    "duels",
    "experiment",
    "losses",
    "methods",
    "optimizers",
    "recipe",
    "schedules",
    "tasks",
)
RECORDER = ("capture", "measurement", "rivals", "trace", *RECIPES)
DETECTOR = ("_lightning", "activations", "callbacks/pathology_detector", "diagnosis", "distributed", "gradients")


def fit(recipe: Recipe, seed: int, callbacks: Sequence[Callback]) -> LightningModule:
    """Train as the recipe says and return the module."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    lightning.seed_everything(seed, verbose=False)
    data = recipe.data()
    module = recipe.module()
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=recipe.steps,
        max_epochs=-1,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **recipe.trainer(),
    )
    trainer.fit(module, batch_loader(TensorPairs(data.inputs, data.targets), recipe.batch_size, shuffle_seed=seed))
    return module


def fingerprint(module: LightningModule) -> str:
    """Return a digest of every weight: two runs with the same one took the same steps, bit for bit."""
    digest = sha256()
    for tensor in module.state_dict().values():
        digest.update(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes() if tensor.ndim else b"")
    return digest.hexdigest()[:16]


def recorded(recipe: Recipe, seed: int) -> dict[str, Any]:
    """Return the record of a run that no detector watches, with the rivals' verdicts."""
    began = time.perf_counter()
    rivals = Rivals(recipe.steps)
    trace = Trace(recipe.data(), rivals)
    module = fit(recipe, seed, [trace])
    return {
        "recipe": recipe.name,
        "seed": seed,
        **trace.as_dict(),
        "rivals": rivals.findings(),
        "weights": fingerprint(module),
        "seconds": time.perf_counter() - began,
    }


class Reader(Callback):
    """Notes when the user of a detector would have seen each of its findings at ``warning`` or above."""

    def __init__(self, detector: Any) -> None:
        self.detector = detector
        self.seen: dict[tuple[str, str], dict[str, Any]] = {}

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        for finding in self.detector.findings:
            key = str(finding.kind), finding.layer
            if key not in self.seen and str(finding.severity) != "info":
                self.seen[key] = {"kind": key[0], "layer": key[1], "step": trainer.global_step, "said": finding.message}

    def on_train_end(self, trainer: Trainer, *args: Any) -> None:
        self.on_train_batch_end(trainer)


def watched(recipe: Recipe, seed: int) -> dict[str, Any]:
    """Return what `PathologyDetector` found, with its default settings."""
    from lightning_gradtools.callbacks.pathology_detector import PathologyDetector

    began = time.perf_counter()
    detector = PathologyDetector(table=False)
    reader = Reader(detector)
    module = fit(recipe, seed, [detector, reader])
    return {
        "recipe": recipe.name,
        "seed": seed,
        "findings": list(reader.seen.values()),
        "final": [finding.as_dict() for finding in detector.findings],
        "roots": [str(each.kind) for each in detector.roots() if str(each.severity) != "info"],
        "weights": fingerprint(module),
        "seconds": time.perf_counter() - began,
    }


def _version(paths: Sequence[Path]) -> str:
    """Return a digest of the code in the files; comments, docstrings and layout are no part of it."""
    digest = sha256()
    for path in sorted(paths):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and isinstance(first := next(iter(body), None), ast.Expr):
                del body[: isinstance(first.value, ast.Constant)]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:10]


def _files(root: Path, names: Sequence[str]) -> list[Path]:
    """Return the modules and the files of the packages of these names."""
    return [
        path
        for name in names
        for path in ((root / name).rglob("*.py") if (root / name).is_dir() else [root / f"{name}.py"])
    ]


def recorder_version() -> str:
    """Return a digest of the code that records a run, recipes included."""
    return _version(_files(HERE, RECORDER))


def detector_version() -> str:
    """Return a digest of the recipes and of the code that the detector is made of."""
    return _version(_files(HERE, RECIPES) + _files(PACKAGE, DETECTOR))


def _path(folder: Path, what: str, version: str, name: str, seed: int) -> Path:
    return folder / f"{what}_{version}" / f"{name}_{seed}.json"


def read(folder: Path, what: str, version: str, name: str, seed: int) -> dict[str, Any] | None:
    """Return the run (`record` or `watch`) from the folder, None if it is not there."""
    path = _path(folder, what, version, name, seed)
    found: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    return found


def cached(folder: Path, what: str, version: str, recipe: Recipe, seed: int) -> dict[str, Any]:
    """Return the run from the folder, running it first if it is not there."""
    found = read(folder, what, version, recipe.name, seed)
    if found is None:
        found = recorded(recipe, seed) if what == "record" else watched(recipe, seed)
        path = _path(folder, what, version, recipe.name, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(found))
        part.rename(path)
    return found
