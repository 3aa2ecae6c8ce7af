"""``resume=FOLDER``: what a run that was stopped becomes."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.cli.resume import quoted, replace_resume

EPOCH = 19  # steps of the default experiment


@pytest.fixture
def stopping(monkeypatch):
    """Press Ctrl-C at the end of the given epoch, counted from 1; None: no more."""
    at = [None]

    def press(_, trainer, __):
        if trainer.current_epoch + 1 == at[0]:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("lightning_gradtools.callbacks.ProgressBar.on_train_epoch_end", press)
    return lambda epoch: at.__setitem__(0, epoch)


def checkpoint(folder, name="last"):
    return torch.load(Path(folder) / "checkpoints" / f"{name}.ckpt")


def weights(folder):
    return torch.cat([value.flatten() for value in checkpoint(folder)["state_dict"].values()])


def rows(folder):
    with (Path(folder) / "csv" / "metrics.csv").open(newline="") as file:
        return [(row["step"], row["train/loss"], row["val/loss"]) for row in csv.DictReader(file)]


def test_a_run_that_was_stopped_twice_ends_as_one_that_was_not(gradtools_train, stopping, capsys):
    ours = ("trainer.max_epochs=3", "logger=csv", "seed=3")
    assert gradtools_train(*ours, "hydra.run.dir=whole") == 0
    capsys.readouterr()
    stopping(1)
    assert gradtools_train(*ours, "hydra.run.dir='a, b=c'") == 1
    assert checkpoint("a, b=c")["global_step"] == EPOCH
    out = capsys.readouterr().out
    command = next(line for line in out.splitlines() if line.startswith("To go on")).split(maxsplit=3)[3]
    assert command == "gradtools-train 'resume=a, b=c'"
    assert f"Last checkpoint  {Path('a, b=c/checkpoints/last.ckpt')}" in out

    stopping(2)
    assert gradtools_train("resume=a, b=c") == 1
    assert checkpoint("a, b=c")["global_step"] == 2 * EPOCH
    stopping(None)
    assert gradtools_train("resume=a, b=c") == 0
    assert "To go on" not in capsys.readouterr().out.split("3 epochs")[-1]

    assert torch.equal(weights("a, b=c"), weights("whole"))
    assert rows("a, b=c") == rows("whole")
    best = [checkpoint(folder)["callbacks"] for folder in ("a, b=c", "whole")]
    scores = [next(v["best_model_score"] for k, v in each.items() if k.startswith("ModelCheckpoint")) for each in best]
    assert scores[0] == scores[1]

    summary, versions = (json.loads((Path("a, b=c") / f"{name}.json").read_text()) for name in ("summary", "versions"))
    assert [part["steps"] for part in [*summary["earlier"], summary]] == [EPOCH, 2 * EPOCH, 3 * EPOCH]
    assert len(versions["earlier"]) == 2
    assert "earlier" not in versions["earlier"][0]
    assert Path("a, b=c/.hydra/overrides.yaml").read_text().startswith("- trainer.max_epochs=3")


def test_a_finished_run_is_refused_and_given_more(gradtools_train, capsys):
    assert gradtools_train("trainer.max_epochs=1", "hydra.run.dir=run", "test=false", "schedule=none") == 0
    score = checkpoint("run", "best")["epoch"]
    capsys.readouterr()
    assert gradtools_train("resume=run") == 1
    refused = "resume=run: the run is finished (1 epochs, 19 optimizer steps); to go on with it, give it more, as by"
    assert f"Error: {refused} trainer.max_epochs=2" in capsys.readouterr().err
    assert gradtools_train("resume=run", "trainer.max_epochs=abc") == 1
    assert gradtools_train("resume=run", "trainer.max_epochs=2") == 0  # what was refused is not in its config
    out = capsys.readouterr().out
    assert "2 epochs, 38 optimizer steps" in out
    assert "SGD" not in out
    assert checkpoint("run")["epoch"] >= score


class Killed(BaseException):
    """What no code catches, as a SIGKILL."""


def test_a_run_that_was_killed_in_its_test_is_tested_and_then_finished(gradtools_train, monkeypatch, capsys):
    def kill(*_):
        raise Killed

    ours = ("trainer.max_epochs=2", "logger=csv")
    assert gradtools_train(*ours, "hydra.run.dir=whole") == 0
    with monkeypatch.context() as patch:
        patch.setattr("lightning_gradtools.cli.run_folder.record_summary", kill)  # nor is anything written at the end
        patch.setattr("lightning_gradtools.tasks.Classifier.on_test_start", kill, raising=False)
        with pytest.raises(Killed):
            gradtools_train(*ours, "hydra.run.dir=run")
    assert not Path("run/summary.json").exists()
    before = checkpoint("run")
    capsys.readouterr()

    assert gradtools_train("resume=run") == 0
    out = capsys.readouterr().out
    whole, run = (json.loads((Path(folder) / "summary.json").read_text()) for folder in ("whole", "run"))
    assert (
        {key: value for key, value in whole["metrics"].items() if key.startswith("test/")}
        == {key: value for key, value in run["metrics"].items() if key.startswith("test/")}
        != {}
    )
    assert (run["epochs"], run["steps"], run["finished_at"]) == (2, 2 * EPOCH, 2 * EPOCH)
    assert "Best checkpoint  " in out
    assert "To go on" not in out
    assert torch.equal(weights("run"), weights("whole"))
    after = checkpoint("run")
    assert after["loops"]["fit_loop"]["epoch_progress"] == before["loops"]["fit_loop"]["epoch_progress"]
    assert rows("run")[: len(rows("whole"))] == rows("whole")

    assert gradtools_train("resume=run") == 1
    assert "the run is finished (2 epochs, 38 optimizer steps)" in capsys.readouterr().err
    monkeypatch.setattr("lightning_gradtools.tasks.Classifier.on_test_start", kill, raising=False)
    with pytest.raises(Killed):
        gradtools_train("resume=run", "trainer.max_epochs=3")
    assert "To go on         gradtools-train resume=run" in capsys.readouterr().out


def test_a_run_of_a_sweep_goes_on(gradtools_train, stopping, capsys):
    stopping(1)
    ours = ("trainer.max_epochs=2", "test=false", "schedule=none")
    gradtools_train("-m", "optimizer.lr=0.01", *ours, "hydra.sweep.dir=sweep")
    stopping(None)
    assert gradtools_train("resume=sweep/0") == 0
    assert "AdamW(lr=0.01)" in capsys.readouterr().out
    assert checkpoint("sweep/0")["global_step"] == 2 * EPOCH


def test_a_module_of_the_user_s_goes_on_without_its_config_files(gradtools_train, tmp_path, capsys):
    shutil.copy(Path(__file__).with_name("user_package.py"), tmp_path / "user_package.py")
    own = tmp_path / "own" / "experiment"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("# @package _global_\ntrainer:\n  max_epochs: 1\nseed: 11\n")
    module = ("model._target_=user_package.Module", "data._target_=user_package.Data", "trainer.log_every_n_steps=2")
    assert gradtools_train("--config-dir=own", "experiment=mine", *module, "hydra.run.dir=run") == 0
    shutil.rmtree(tmp_path / "own")
    capsys.readouterr()
    assert gradtools_train("resume=run", "trainer.max_epochs=2") == 0
    out = capsys.readouterr().out
    assert "seed       11" in out
    assert checkpoint("run")["global_step"] == 2 * 4


def test_what_cannot_be_resumed_is_one_clear_error(gradtools_train, tmp_path, capsys):
    def said(*arguments):
        assert gradtools_train(*arguments) == 1
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return captured.err

    run = tmp_path / "run"
    assert "Error: resume=run: there is no such folder" in said("resume=run")
    run.mkdir()
    assert "resume=run: is not the folder of a run: it holds no config.yaml" in said("resume=run")
    (run / ".hydra").mkdir()
    for name in ("config.yaml", "versions.json", ".hydra/config.yaml"):
        (run / name).write_text("{}")
    assert "there is no checkpoints/last.ckpt" in said("resume=run")
    assert "cannot be given with ckpt_path" in said("resume=run", "ckpt_path=x.ckpt")
    assert "cannot be swept over" in said("resume=run", "-m", "seed=1,2")
    assert "cannot be given with --config-dir" in said("resume=run", "--config-dir=own")
    assert "must be given once" in said("resume=run", "resume=other")


def test_other_command_lines_are_left_alone():
    assert replace_resume(["model=cnn", "trainer.max_epochs=3"]) == ["model=cnn", "trainer.max_epochs=3"]


def test_a_path_of_any_characters_is_one_value_to_hydra():
    from hydra.core.override_parser.overrides_parser import OverridesParser

    for path in ("/a b/c", "/it's", "/x=1,2", "/{a}[b]", "/a\\b", "/a\\'b", "/$x", "/ä"):
        (override,) = OverridesParser.create().parse_overrides([f"key={quoted(path)}"])
        assert str(override.value()) == path
    with pytest.raises(ArgumentError, match="must not end in a backslash"):
        quoted("/a\\")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_moment_leaves_the_newest_state(tmp_path, number):
    program = Path(sys.executable).with_name("gradtools-train")
    options = {"cwd": tmp_path, "env": {**os.environ, "OMP_NUM_THREADS": "1"}, "text": True}
    run = subprocess.Popen(
        [program, "hydra.run.dir=run", "trainer.max_epochs=500"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **options,
    )
    while not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists():
        assert run.poll() is None
        time.sleep(0.02)
    time.sleep(0.5)
    run.send_signal(number)
    out, _ = run.communicate(timeout=60)
    assert "To go on         gradtools-train resume=run" in out
    assert f"{torch.load(tmp_path / 'run/checkpoints/last.ckpt')['global_step']} optimizer steps" in out
