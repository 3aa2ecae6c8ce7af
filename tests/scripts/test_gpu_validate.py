"""The script that validates on a CUDA device: its table and exit status, and what of its checks a CPU can run."""

import json
import subprocess
import sys
import warnings
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from lightning_gradtools._lightning.gradient_pass import GradientPass
from lightning_gradtools.callbacks import GradientClipping

SCRIPTS = Path(__file__).parents[2] / "scripts"
CPU = ["--device", "cpu", "--small"]


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(SCRIPTS))
    yield import_module("gpu_validate")
    sys.path.remove(str(SCRIPTS))


@pytest.fixture
def setting(script, tmp_path):
    return script.Setting(device="cpu", small=True, rounds=3, batch_size=2, context_length=8, folder=tmp_path)


def answering(script, check, *, ok=True):
    outcome = import_module("gpu.check").Outcome(measured="this | that", ok=ok)
    return replace(check, measure=lambda setting: outcome)


def raising(check):
    def measure(setting):
        raise RuntimeError("no such kernel\nand more")

    return replace(check, measure=measure, needs_cuda=False)


def test_every_check_is_a_row_of_all_three_tables(script, tmp_path, capsys):
    checks = [answering(script, check) for check in script.all_checks()]
    names = [check.name for check in checks]
    assert len(set(names)) == len(names)
    files = tmp_path / "table.json", tmp_path / "table.md"
    status = script.main([*CPU, "--json", str(files[0]), "--markdown", str(files[1])], checks)
    assert status == 2  # nothing failed, but not all could be shown
    rows = json.loads(files[0].read_text())["rows"]
    assert [row["name"] for row in rows] == names
    needing = [check.name for check in checks if check.needs_cuda]
    assert [row["name"] for row in rows if row["result"] == "needs a CUDA device"] == needing
    assert all(row["result"] == "ok" and row["device"] == "cpu" for row in rows if row["name"] not in needing)
    table = files[1].read_text().splitlines()[2:]
    assert [line.split(" | ")[0] for line in table[2:]] == [f"| {name}" for name in names]
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)


@pytest.mark.parametrize(
    "subject",
    [
        "host waits added to a step that is ordinary",
        "host waits added to a step that is logged",
        "a NaN step is skipped: fused AdamW",
        "fp16 norms",
        "fp16 overflow",
        "flash attention",
        "CUDA graphs",
        "nccl",
        "GPT-2 step relative to bare",
        "one spectrum",
        "64-true",
        ".double()",
        "memory after",
    ],
)
def test_what_only_a_device_can_show_is_among_the_rows(script, subject):
    assert any(subject in check.name for check in script.all_checks())


def test_a_check_that_fails_or_raises_is_a_row_and_exit_status_1(script, capsys):
    first, *_ = (check for check in script.all_checks() if not check.needs_cuda)
    assert script.main(CPU, [answering(script, first)]) == 0
    assert script.main(CPU, [answering(script, first, ok=False), answering(script, first)]) == 1
    capsys.readouterr()
    assert script.main(CPU, [raising(first), answering(script, first)]) == 1
    printed = capsys.readouterr().out
    assert "RuntimeError: no such kernel (test_gpu_validate.py:" in printed
    assert "1 failed, 1 ok" in printed


def test_words_that_are_in_no_row_are_refused(script, capsys):
    with pytest.raises(SystemExit):
        script.main([*CPU, "--only", "no such row"])
    assert "--only no such row: in no row's name" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_refused(script, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SystemExit):
        script.main(["--device", "cuda"])
    assert "--device cuda: there is none" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    [
        "a NaN step is skipped: fused AdamW",
        "a NaN step is skipped: AdamW by default",
        "fp16 norms are without the loss scale: fused AdamW",
        "fp16 overflow at a loss scale of 1: fused AdamW",
        "fp16 overflow while the loss scale is searched: AdamW by default",
        "precision='64-true'",
        "HessianSpectrum through flash attention, bf16",
        "a plain nccl group of one process",
        "the collectives of two ranks",
        "GPT-2 step relative to bare: monitor, clipping",
        "GPT-2: one spectrum",
    ],
)
def test_what_a_cpu_can_run_of_it_passes(script, name, capsys):
    assert script.main([*CPU, "--only", name]) == 0
    assert "\nok" in f"\n{capsys.readouterr().out}"


@pytest.mark.parametrize("name", ["a NaN step is skipped: fused AdamW", "a NaN step is skipped: AdamW by default"])
def test_a_verdict_that_stays_on_the_device_skips_the_same_step(script, name, monkeypatch):
    monkeypatch.setattr(GradientPass, "is_free_to_read", False)  # as where reading makes the host wait
    assert script.main([*CPU, "--only", name]) == 0


@pytest.mark.parametrize("name", ["a NaN step is skipped: fused AdamW", "fp16 overflow at a loss scale of 1: fused"])
def test_a_fault_of_ours_is_a_failed_row(script, name, monkeypatch):
    monkeypatch.setattr(GradientClipping, "clip", lambda self, optimizer: None)
    assert script.main([*CPU, "--only", name]) == 1


def test_a_callback_that_disables_itself_is_a_failed_row(script, monkeypatch, capsys):
    def broken(*arguments):
        raise RuntimeError("out of order")

    monkeypatch.setattr("lightning_gradtools.callbacks.gradient_monitor.callback.gradient_pass", broken)
    assert script.main([*CPU, "--only", "GPT-2 step relative to bare: GradientMonitor, every step"]) == 1
    assert "out of order" in capsys.readouterr().out


class Waits(Callback):
    """Says as torch does that it waited, at the start of some batches and at the end of others."""

    def __init__(self, starts, ends):
        self.starts, self.ends = starts, ends

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx in self.starts:
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx in self.ends:
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)


@pytest.mark.parametrize(
    ("starts", "ends", "ordinary", "logged"),
    [
        ([], [], True, True),
        ([25], [], False, True),  # of steps 20 to 39 are 21, 25, … ordinary, 23, 27, … logged, 20, 24, … sampled
        ([], [29], False, True),
        ([24], [24], True, False),
        ([24], [], True, True),
    ],
)
def test_waits_are_counted_where_they_are(script, setting, monkeypatch, starts, ends, ordinary, logged):
    waits = import_module("gpu.waits")
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: None)
    monkeypatch.setitem(waits.CASES, "made", (lambda: [Waits(starts, ends)], True))
    assert waits.measure("made", 0, False, setting).ok is ordinary
    assert waits.measure("made", 1, True, setting).ok is logged


def test_one_of_those_who_take_turns_that_fails_stops_all(script):
    bench = import_module("bench_gradients")

    def fails(turnstile):
        for _ in range(5):
            turnstile.on_train_batch_start()
        raise MemoryError("full")

    def goes_on(turnstile):
        while turnstile.steps_left >= 0:
            turnstile.on_train_batch_start()

    with pytest.raises(MemoryError, match="full"):
        bench.take_turns({"one": goes_on, "other": fails}, 5, 3, "cpu")


@pytest.mark.slow
def test_the_command_makes_every_check_on_a_cpu(tmp_path):
    result = tmp_path / "table.json"
    command = [str(SCRIPTS / "gpu_validate.sh"), *CPU, "--json", str(result)]
    environment = {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2, done.stdout + done.stderr
    assert {row["result"] for row in json.loads(result.read_text())["rows"]} == {"ok", "needs a CUDA device"}
