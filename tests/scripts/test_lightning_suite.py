"""The script against a checkout of our own making and a package whose callbacks do what they must not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "lightning_suite.py"

TESTS = """
import warnings
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers.logger import DummyLogger

def fit(tmp_path, model, **settings):
    trainer = Trainer(max_steps=2, default_root_dir=tmp_path, accelerator="cpu", **{"logger": False, **settings})
    trainer.fit(model)
    return trainer

class Quiet(BoringModel): pass
class Touched(BoringModel): pass
class Hooked(BoringModel): pass
class Unhooked(BoringModel): pass
class Failing(BoringModel): pass
class FailingByItself(BoringModel):
    def of_the_test(self):
        raise RuntimeError("on purpose")
class FailingInItsStep(BoringModel):
    def of_the_test(self):
        return next({})
class Refused(BoringModel): pass
class Killing(BoringModel): pass
class Raising(BoringModel): pass

class Log(DummyLogger):
    def log_metrics(self, metrics, step):
        raise AssertionError("nothing is to be logged")

KINDS = [Quiet, Touched, Hooked, Failing, FailingByItself, FailingInItsStep, Refused, Killing, Raising]

@pytest.mark.parametrize("kind", KINDS)
def test_fit(tmp_path, kind):
    fit(tmp_path, kind())

def test_own_hook(tmp_path):
    model = Unhooked()
    model.layer.register_forward_hook(lambda module, inputs, output: None)
    fit(tmp_path, model)

def test_number_of_callbacks(tmp_path):
    assert len(fit(tmp_path, Quiet()).callbacks) == 3

def test_logs_nothing(tmp_path):
    fit(tmp_path, Quiet(), logger=Log(), log_every_n_steps=1)

def test_not_the_same_twice(tmp_path):
    model = Quiet()
    model.layer.weight.data[0, 0] = torch.randn((), generator=torch.Generator().manual_seed(__import__("os").getpid()))
    fit(tmp_path, model)

def test_no_fit():
    assert Trainer(accelerator="cpu", logger=False).global_step == 0
"""

PACKAGE = """
import os
import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_warn

class ArgumentError(ValueError): pass

class GradientMonitor(Callback):
    def on_fit_start(self, trainer, pl_module):
        if type(pl_module).__name__ == "Refused":
            raise ArgumentError("not for this run")

    def on_train_batch_end(self, trainer, pl_module, *_):
        for logger in trainer.loggers:
            logger.log_metrics({"norm": 1.0}, step=0)

    def on_train_end(self, trainer, pl_module):
        kind = type(pl_module).__name__
        if kind == "Touched":
            pl_module.layer.weight.data += 1
        if kind == "Hooked":
            pl_module.layer.register_forward_hook(lambda module, inputs, output: None)
        if kind == "Unhooked":
            pl_module.layer._forward_hooks.clear()
        if kind.startswith("Failing"):
            try:
                pl_module.of_the_test()
            except Exception as error:
                rank_zero_warn(f"GradientMonitor is off for the rest of this run, training goes on: {error}")
        if kind == "Killing":
            os._exit(1)
        if kind == "Raising":
            raise RuntimeError("stops the run")
"""


def case(name: str) -> str:
    """Return the id of a test of the checkout."""
    return f"tests/tests_pytorch/test_trainer.py::{name}"


@pytest.mark.slow
def test_each_fault_is_counted_where_it_belongs_and_what_controls_explain_is_not(tmp_path: Path) -> None:
    tests = tmp_path / "checkout" / "tests" / "tests_pytorch"
    tests.mkdir(parents=True)
    (tests / "test_trainer.py").write_text(TESTS)
    (tmp_path / "checkout" / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    (tmp_path / "checkout" / "src").mkdir()
    (tmp_path / "checkout" / "src" / "version.info").write_text("0.0.0\n")
    package = tmp_path / "faulty" / "lightning_gradtools"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "callbacks.py").write_text(PACKAGE)

    command = [sys.executable, str(SCRIPT), "checkout", "--only", "monitor", "--limit-seconds", "60"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "faulty")}
    ran = subprocess.run(
        [*command, "--folder", "records", "--json", "suite.json"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )

    assert ran.returncode == 1, ran.stdout + ran.stderr
    verdict = json.loads((tmp_path / "suite.json").read_text())["injections"][0]
    assert verdict["tests"] == 13
    assert set(verdict["differences"]) == {case("test_fit[Killing]"), case("test_fit[Raising]")}
    assert verdict["hash_differs"] == {case("test_fit[Touched]"): ["weights after _fit_impl 0"]}
    assert set(verdict["left"]) == {case("test_fit[Hooked]"), case("test_own_hook")}
    assert verdict["left"][case("test_fit[Hooked]")][0].startswith("+ module.layer._forward_hooks")
    assert verdict["left"][case("test_own_hook")][0].startswith("- module.layer._forward_hooks")
    assert set(verdict["disabled"]) == {case("test_fit[Failing]"), case("test_fit[FailingInItsStep]")}
    assert set(verdict["disabled_by_tests"]) == {case("test_fit[FailingByItself]")}
    assert verdict["refused"] == {case("test_fit[Refused]"): "not for this run"}
