"""Replays a batch that gave a NaN or an infinity.

    python -m lightning_gradtools.callbacks.pathology_detector.replay findings/nonfinite_step_120_rank_0.pt

reads what ``PathologyDetector(dump_dir=...)`` wrote and runs that step again, module by module, without training.
Loading a pickle runs what is in it: replay only dumps of your own.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule

from lightning_gradtools._lightning.flavour import counterpart
from lightning_gradtools._lightning.module import without_patches
from lightning_gradtools.callbacks.pathology_detector.nonfinite_origin import Origin, search


def dump(path: Path, pl_module: LightningModule, batch: Any, about: dict[str, Any]) -> str:
    """Write module and batch to ``path``; return what the file holds, or why there is none, for people.

    A module that cannot be pickled is left out; its weights and the batch are still there.
    """
    content = {"batch": batch, "state_dict": pl_module.state_dict(), "about": about}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with without_patches(pl_module):
            torch.save({**content, "module": pl_module}, path)
        return f"batch and module in {path}"
    except OSError as error:
        return f"no dump: {error}"
    except Exception:  # pickling runs code of the user's classes
        torch.save(content, path)
        return f"batch and weights (the module cannot be pickled) in {path}"


def replay(path: str | Path) -> Origin:
    """Return where the dumped step turns non-finite.

    Raises:
        ValueError: if the module is not in the file.
    """
    content = torch.load(path, weights_only=False, map_location="cpu")
    module = content.get("module")
    if module is None:
        raise ValueError(f"{path}: holds batch and weights, but the module could not be pickled")
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    module.trainer = counterpart(module, "trainer", "Trainer")(accelerator="cpu", devices=1, logger=False, **quiet)
    return search(module, content["batch"])


def main() -> None:
    """Print where the dumped step named on the command line turns non-finite."""
    origin = replay(sys.argv[1])
    sys.stdout.write(f"direction  {origin.direction}\nlayer      {origin.layer or '-'}\ndetail     {origin.detail}\n")


if __name__ == "__main__":
    main()
