import math
import sys
from pathlib import Path

from lightning_gradtools.cli.summary import Summary, tensorboard_command


def summary(**metrics):
    return Summary(epochs=2, steps=38, seconds=2.0, metrics=metrics, best_checkpoint=None)


def test_splits_stand_side_by_side_and_other_figures_below(tmp_path):
    lines = summary(**{"train/loss": 0.5, "val/loss": 0.25, "test/accuracy": 0.875, "grad_norm/total": math.nan}).text(
        str(tmp_path)
    )
    rows = {line.split()[0]: line for line in lines.splitlines() if line}
    header = next(line for line in lines.splitlines() if "train" in line and "val" in line and "test" in line)
    assert rows["loss"].index("0.25") + len("0.25") == header.index("val") + len("val")
    assert rows["accuracy"].index("0.875") + len("0.875") == header.index("test") + len("test")
    assert rows["grad_norm/total"].split() == ["grad_norm/total", "nan"]
    assert "2 epochs, 38 optimizer steps, 2.0 s (19 steps/s)" in lines


def test_tensorboard_is_named_only_if_there_is_something_to_see(tmp_path):
    assert "tensorboard" not in summary().text(str(tmp_path))
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "events.out.tfevents.1").touch()
    assert tensorboard_command(str(tmp_path)) in summary().text(str(tmp_path))


def test_the_tensorboard_command_runs_from_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))
    assert tensorboard_command("outputs/a b") == f"{Path('.venv/bin/tensorboard')} --logdir 'outputs/a b'"
    assert tensorboard_command("/elsewhere/run").endswith("--logdir /elsewhere/run")
