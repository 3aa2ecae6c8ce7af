"""The part of ``scripts/run_projects.py`` that runs in the projects' environment: trains the models of one recipe file.

    python -m projects.one_run FILE RESULTS SECONDS [MODEL,MODEL]

The project is imported once. Each run has a process of its own, forked from this one, which may take ``SECONDS``.
``RESULTS`` gets one line of JSON a run, or one that says why the project cannot be imported.
"""

from projects import torchvision_operators  # noqa: I001, F401 - before anything that imports torchvision

import hashlib
import importlib
import json
import logging
import multiprocessing
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as pl
import numpy as np
import torch
from torch import nn

from lightning_gradtools.callbacks import GradientClipping, GradientMonitor, HessianSpectrum, PathologyDetector
from projects.recipe import Recipe, Setting

DETECTION_STEPS = 5
SPECTRUM_STEPS = 25


class Losses(pl.Callback):
    """Reads the loss of each step, and changes nothing.

    Attributes:
        used: the one that a Trainer used last, which may be a copy of the one that the project was given.
        beside: the callbacks of that Trainer.
    """

    used: ClassVar["Losses | None"] = None

    def __init__(self) -> None:
        self.beside: list[pl.Callback] = []
        self.values: list[float] = []
        self.names: Counter[str] = Counter()
        self.modules: set[str] = set()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        Losses.used, self.beside = self, list(trainer.callbacks)  # type: ignore[attr-defined]
        self.names = Counter(name for name, _ in pl_module.named_parameters())
        self.modules = {name for name, _ in pl_module.named_modules()}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, torch.Tensor):
            self.values.append(float(loss.detach().mean()))


def observers() -> list[pl.Callback]:
    """Return all callbacks that watch, with every option that needs nothing special of the run."""
    return [
        GradientMonitor(5, weight_norm=True, update_ratio=True, cosine=True, histograms=True, progress_bar=True),
        PathologyDetector(DETECTION_STEPS, table=False),
        HessianSpectrum(every_n_steps=SPECTRUM_STEPS, top_k=2, trace=10),
    ]


VARIANTS: dict[str, Callable[[], list[pl.Callback]]] = {
    "bare": list,
    "observers": observers,
    "clipping": lambda: [GradientClipping(max_norm=1e9)],  # clips nothing, so that weights stay as they are
    "sick": lambda: observers()[:2],
}


def hash_of(module: nn.Module) -> str:
    """Return a digest of the bits of weights and buffers."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        if isinstance(value, torch.Tensor):
            flat = value.detach().to_dense().contiguous().reshape(-1)
            digest.update(name.encode() + flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def unreadable(keys: Iterable[str], seen: Losses) -> list[str]:
    """Return logged keys that name no parameter, and parameters that no key names."""
    layers = Counter(key.partition("/")[2] for key in keys if key.startswith("grad_norm/"))
    wrong = [f"unknown {name!r}" for name in layers if name not in seen.names and name not in ("total", "")]
    wrong += [f"twice {name!r}" for name, count in layers.items() if count > 1]
    return wrong + (["an empty name"] if "" in layers else [])


def look(callbacks: list[pl.Callback], seen: Losses) -> dict[str, Any]:
    """Return what our callbacks have to say after a run."""
    result: dict[str, Any] = {"findings": [], "keys": [], "disabled": {}, "missing": []}
    for callback in callbacks:
        name = type(callback).__name__
        failure = callback.guard.failure if name == "GradientClipping" else callback.failure  # type: ignore[attr-defined]
        if failure is not None:
            result["disabled"][name] = failure
        if isinstance(callback, GradientMonitor):
            keys = list(dict.fromkeys(key for record in callback.history for key in record.values))
            result["logged"] = len(callback.history)
            result["keys"] = unreadable(keys, seen)
        if isinstance(callback, HessianSpectrum):
            result["spectra"] = len(callback.history)
        if isinstance(callback, PathologyDetector):
            result["samples"] = len(callback.history.observations)
            result["layers"] = (
                [each.name for each in callback.history.observations[-1].layers] if result["samples"] else []
            )
            result["keys"] += [f"no module {name!r}" for name in result["layers"] if name not in seen.modules]
            result["findings"] = [
                {
                    "kind": str(each.kind),
                    "layer": each.layer,
                    "severity": str(each.severity),
                    "step": each.step,
                    "resolved_at": each.resolved_at,
                    "message": each.message,
                    "remedy": each.remedy[0].sentence if each.remedy else "",
                }
                for each in callback.findings
            ]
    return result


def train(recipe: Recipe, variant: str) -> dict[str, Any]:
    """Train once and return what came of it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - what third-party code draws from
    torch.manual_seed(0)
    callbacks = VARIANTS[variant]()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        setting = Setting(
            callbacks=[*callbacks, Losses()],
            folder=Path(folder),
            sickness=recipe.sickness if variant == "sick" else "",
        )
        begun = time.perf_counter()
        error = ""
        module: Any = None
        try:
            module = recipe.fit(setting)
        except Exception as raised:
            if variant != "sick":
                raise
            error = f"{type(raised).__name__}: {raised}"[:200]
        seconds = time.perf_counter() - begun
    seen = Losses.used
    if seen is None:
        raise RuntimeError(error or "the project gave its Trainer no callbacks")
    kinds = tuple({type(each) for each in callbacks})
    used = [each for each in seen.beside if type(each) in kinds]
    if len(used) != len(callbacks):
        raise RuntimeError(f"{len(callbacks)} callbacks were given, {len(used)} used")
    ours = [str(each.message) for each in said if any(type(c).__name__ in str(each.message) for c in callbacks)]
    flavours = [cls.__module__ for cls in type(module).__mro__ if cls.__name__ == "LightningModule"]
    return {
        "seconds": seconds,
        "losses": seen.values,
        "weights": hash_of(module) if module is not None else "",
        "parameters": sum(p.numel() for p in module.parameters()) if module is not None else 0,
        "module": type(module).__name__,
        "flavour": flavours[0].partition(".")[0] if flavours else "",
        "error": error,
        "said": ours,
        **look(used, seen),
    }


def report(results: Path, line: dict[str, Any]) -> None:
    """Add one line to the results."""
    with results.open("a") as file:
        file.write(json.dumps(line) + "\n")


def run(recipe: Recipe, variant: str, results: Path, line: dict[str, Any]) -> None:
    """Train in this process, and report what came of it."""
    torch.set_num_threads(1)
    try:
        outcome = train(recipe, variant)
    except Exception as error:
        traceback.print_exc()
        outcome = {"error": f"{type(error).__name__}: {error}"[:300]}
    report(results, {**line, **outcome})


def main(arguments: list[str]) -> None:
    file, path, limit, *only = arguments
    results = Path(path)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    try:
        recipes: dict[str, Recipe] = importlib.import_module(f"projects.recipes.{file}").RECIPES
        versions = {name: version(each.package) for name, each in recipes.items()}
    except Exception as error:
        traceback.print_exc()
        report(results, {"model": file, "reason": f"{type(error).__name__}: {error}"[:300]})
        return
    processes = multiprocessing.get_context("fork")
    for name, recipe in recipes.items():
        if only and name not in only[0].split(","):
            continue
        for variant in VARIANTS:
            line: dict[str, Any] = {
                "model": name,
                "variant": variant,
                "version": versions[name],
                "sickness": recipe.sickness,
            }
            line["true"] = dict(recipe.true)
            process = processes.Process(target=run, args=(recipe, variant, results, line))
            process.start()
            process.join(float(limit))
            if process.exitcode != 0:
                ended = "took longer than it may" if process.exitcode is None else f"exit code {process.exitcode}"
                process.kill()
                process.join()
                report(results, {**line, "error": ended})


if __name__ == "__main__":
    main(sys.argv[1:])
