"""What the tests share."""

import logging
import os
import signal
import sys
import warnings

import pytest
import torch
from hydra.core.hydra_config import HydraConfig

from lightning_gradtools.cli.main import main


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_is_heard():
    """Undo what a shell does to a job in its background, where the tests that press Ctrl-C would wait in vain."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _seed():
    """Make weights that a test does not seed itself the same in every run."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _empty_folder(monkeypatch, tmp_path):
    """Let a Trainer's default folder, which is the current one, be the test's own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _nothing_compiled():
    """Forget what torch.compile made: it counts recompilations over all tests of a process, and then gives up."""
    yield
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


@pytest.fixture
def gradtools_train(monkeypatch, tmp_path):
    """Run ``gradtools-train`` in this process (starting one costs seconds of imports) and in an empty folder.

    Returns a function from the command line's words to the exit status. What a run changes for its process, and would
    leave behind at its end, is put back afterwards.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    environment = dict(os.environ)
    names = (None, "lightning", "lightning.pytorch", "lightning.fabric")
    lightning_loggers = [logging.getLogger(name) for name in names]
    before = [(logger, logger.propagate, [(h, h.formatter) for h in logger.handlers]) for logger in lightning_loggers]
    on_interrupt = signal.getsignal(signal.SIGINT)  # Lightning ignores further ones after the first
    deterministic = torch.are_deterministic_algorithms_enabled()

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["gradtools-train", *arguments])
        try:
            with warnings.catch_warnings():
                main()
        except SystemExit as exit_:
            return exit_.code
        finally:
            os.environ.clear()
            os.environ.update(environment)
        return 0

    yield run
    signal.signal(signal.SIGINT, on_interrupt)
    HydraConfig.instance().cfg = None
    torch.use_deterministic_algorithms(deterministic)
    for logger, propagate, handlers in before:
        logger.propagate = propagate
        for handler, formatter in handlers:
            handler.setFormatter(formatter)
            handler.filters.clear()
