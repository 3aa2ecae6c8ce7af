"""The application over two processes, as a user starts it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp2", marks=pytest.mark.slow)])
def test_two_processes_report_once(tmp_path, strategy):
    program = Path(sys.executable).with_name("gradtools-train")
    brief = ["trainer.max_epochs=2", "data.batch_size=32", "trainer.log_every_n_steps=1"]
    run = subprocess.run(
        [program, f"trainer={strategy}", *brief],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.count("├─ model") == 1
    assert run.stdout.count("optimizer steps") == 1
    (summary,) = tmp_path.glob("outputs/digits/*/summary.json")
    assert len(list(summary.parent.glob("tensorboard/events*"))) >= 1
    found = json.loads(summary.read_text())
    assert found["steps"] == 2 * 19
    assert found["metrics"]["val/accuracy"] > 0.8
    assert 0 < found["metrics"]["grad_norm_clipped/total"] <= 1.0001


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_go_on_where_two_stopped(tmp_path, strategy):
    program = Path(sys.executable).with_name("gradtools-train")
    brief = ["schedule=none", "data.batch_size=64", "test=false", "hydra.run.dir=run"]
    for words in ([f"trainer={strategy}", "trainer.max_epochs=1", *brief], ["resume=run", "trainer.max_epochs=2"]):
        run = subprocess.run(
            [program, *words],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr[-3000:]
        assert run.stdout.count("├─ model") == 1
    found = json.loads((tmp_path / "run" / "summary.json").read_text())
    (before,) = found["earlier"]
    assert (before["steps"], found["steps"]) == (found["resumed_at"], 2 * before["steps"])
