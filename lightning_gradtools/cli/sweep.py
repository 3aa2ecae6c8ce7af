"""The table printed after a sweep: one line a run."""

import json
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from lightning_gradtools.cli.summary import tensorboard_command


class SweepSummary(Callback):
    """Hydra callback: reads what the runs of a sweep left in their folders, so it works with every launcher."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Print what differs between the runs and what each came to, and the TensorBoard command over all of them."""
        folder = Path(config.hydra.sweep.dir)
        print(sweep_table(folder, config.objective, config.objective_mode))
        print(f"TensorBoard  {tensorboard_command(str(folder))}")


def sweep_table(folder: Path, objective: str, mode: str) -> str:
    """Return a table of the runs below ``folder``, the best by ``objective`` first, failed ones last.

    Args:
        folder: a sweep's folder; each run's has ``.hydra/overrides.yaml``, and ``summary.json`` if it got that far.
        objective: name of the metric compared.
        mode: ``min`` or ``max``: what is best.
    """
    overrides = {path.parent.parent: _words(path) for path in folder.glob("*/.hydra/overrides.yaml")}
    shared = set.intersection(*map(set, overrides.values())) if len(overrides) > 1 else set()
    rows: list[tuple[str, str, float | None]] = []
    for run in sorted(overrides, key=lambda run: (len(run.name), run.name)):
        words = " ".join(word for word in overrides[run] if word not in shared)
        summary = run / "summary.json"
        value = json.loads(summary.read_text())["metrics"].get(objective) if summary.exists() else None
        rows.append((run.name, words, value))

    def rank(row: tuple[str, str, float | None]) -> tuple[bool, float]:
        value = row[2]
        if value is None or value != value:
            return True, 0.0
        return False, value if mode == "min" else -value

    rows.sort(key=rank)
    width = max(len(words) for words in ["swept", *(words for _, words, _ in rows)])
    lines = [f"{'run':>5}  {'swept':<{width}}  {objective}"]
    lines += [f"{run:>5}  {words:<{width}}  {_cell(value)}" for run, words, value in rows]
    return "\n".join(["", *lines, ""])


def _words(path: Path) -> list[str]:
    return [str(word) for word in OmegaConf.load(path)]


def _cell(value: float | None) -> str:
    return "failed" if value is None else f"{value:.4g}"
