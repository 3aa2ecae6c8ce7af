"""What `lightning_suite.py` loads into pytest: a callback in every Trainer, and a record of what each test did.

It is told what to do by the environment:

===================================  ==================================================================================
``LIGHTNING_SUITE_INJECTION``        a name in :data:`INJECTIONS`
``LIGHTNING_SUITE_TESTS``            file with the ids of the tests to run, one a line; if it is not set, the ids of
                                     all tests are recorded (to be used with ``--collect-only``)
``LIGHTNING_SUITE_RECORDS``          file to which two lines of JSON are appended for each test: its id when it
                                     starts (so that a test that kills the process is known), and a record when it
                                     has ended
===================================  ==================================================================================
"""

import hashlib
import json
import os
import random
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from functools import partial, wraps
from pathlib import Path
from typing import Any

import lightning.pytorch.trainer.call as trainer_call
import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.connectors.callback_connector import _CallbackConnector
from torch import Tensor, nn

Record = dict[str, Any]

PHRASES = (" is off for the rest of this run", " disabled itself", " disables itself")
HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
GLOBAL_HOOKS = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
    "_global_parameter_registration_hooks",
    "_global_module_registration_hooks",
    "_global_buffer_registration_hooks",
)
EVERY_MODULE_HAS = frozenset(vars(nn.Module()))
OPTIMIZER_HOOKS = (
    "_optimizer_step_pre_hooks",
    "_optimizer_step_post_hooks",
    "_optimizer_state_dict_pre_hooks",
    "_optimizer_state_dict_post_hooks",
)


# --- what is put into every Trainer
# ---------------------------------------------------------------------------------------------


class NoOp(Callback):
    """Nothing at all: what it changes is the number of callbacks."""


class Writer(Callback):
    """Writes one value into ``callback_metrics`` each step: what any callback that publishes a number changes."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        trainer.callback_metrics["suite_writer/value"] = torch.tensor(0.0)


class Logger(Callback):
    """Reads the clock and logs a number each step: what a test that fakes the one or inspects the other notices."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        for logger in trainer.loggers:
            logger.log_metrics({"suite_logger/seconds": now}, step=trainer.global_step)


def _monitor() -> list[Callback]:
    from lightning_gradtools.callbacks import GradientMonitor

    return [GradientMonitor()]


def _detector() -> list[Callback]:
    from lightning_gradtools.callbacks import PathologyDetector

    return [PathologyDetector()]


def _clipping() -> list[Callback]:
    from lightning_gradtools.callbacks import GradientClipping

    return [GradientClipping(max_norm=1e9)]  # clips nothing, so that weights stay as they are


def _spectrum() -> list[Callback]:
    from lightning_gradtools.callbacks import HessianSpectrum

    return [HessianSpectrum(every_n_steps=2, top_k=1)]


def _schedule() -> list[Callback]:
    from lightning_gradtools.callbacks import WarmupCosineSchedule

    return [WarmupCosineSchedule(warmup_steps=1, total_steps=1000, replace=True)]


INJECTIONS: dict[str, Callable[[], list[Callback]]] = {
    "none": list,
    "noop": lambda: [NoOp()],
    "writer": lambda: [Writer()],
    "logger": lambda: [Logger()],
    "monitor": _monitor,
    "detector": _detector,
    "clipping": _clipping,
    "spectrum": _spectrum,
    "schedule": _schedule,
    "all": lambda: [*_monitor(), *_clipping(), *_spectrum(), *_detector()],
}


def unfit(callback: Callback, trainer: Trainer, module: LightningModule) -> str:
    """Return why ``callback`` says in its documentation that it is not for this run, or ""."""
    kind = type(callback).__name__
    if kind == "GradientClipping" and trainer.gradient_clip_val:
        return "the Trainer clips"
    if kind == "GradientClipping" and (
        type(module).configure_gradient_clipping is not LightningModule.configure_gradient_clipping
    ):
        return "the module clips"
    if kind == "GradientClipping" and sum(type(each).__name__ == kind for each in _callbacks(trainer)) > 1:
        return "another GradientClipping"
    if kind == "HessianSpectrum" and not module.automatic_optimization:
        return "manual optimization"
    return ""


# --- what a run leaves
# ---------------------------------------------------------------------------------------------


def _update(digest: "hashlib._Hash", value: Any) -> None:
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        whole = value.detach().cpu()
        if whole.layout != torch.strided:
            whole = whole.to_dense()
        digest.update(whole.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
    elif isinstance(value, Mapping):
        for key in value:
            digest.update(repr(key).encode())
            _update(digest, value[key])
    elif isinstance(value, (list, tuple)):
        digest.update(f"{len(value)}".encode())
        for each in value:
            _update(digest, each)
    elif value is None or isinstance(value, (bool, int, float, str, bytes)):
        digest.update(repr(value).encode())
    else:
        digest.update(type(value).__name__.encode())


def hash_of(value: Any) -> str:
    """Return a digest of tensors, arrays and plain values in any nesting; of other objects only the type counts."""
    digest = hashlib.sha1(usedforsecurity=False)
    _update(digest, value)
    return digest.hexdigest()[:12]


def guarded(read: Callable[[], Any]) -> Any:
    """Return what ``read`` does; a test's mock or half-built object gives the error's name, alike in every run."""
    try:
        return read()
    except Exception as error:
        return f"unreadable: {type(error).__name__}"


def guarded_hash(read: Callable[[], Any]) -> str:
    """Return the hash of what ``read`` returns, or the error's name."""
    return str(guarded(lambda: hash_of(read())))


def state_of(trainer: Trainer, module: nn.Module) -> dict[str, str]:
    """Return a hash of each thing that an observer must not change, metrics one by one."""
    parts: dict[str, Callable[[], Any]] = {
        "weights": lambda: dict(module.named_parameters()),
        "buffers": lambda: dict(module.named_buffers()),
        "gradients": lambda: {name: p.grad for name, p in module.named_parameters()},
        "modes": lambda: [
            {name: each.training for name, each in module.named_modules()},
            {name: p.requires_grad for name, p in module.named_parameters()},
        ],
        "optimizer": lambda: [optimizer.state_dict() for optimizer in trainer.optimizers],
        "random": lambda: [torch.get_rng_state(), list(np.random.get_state()), random.getstate()],  # noqa: NPY002
        "progress": lambda: [trainer.global_step, trainer.current_epoch],
    }
    state = {name: guarded_hash(read) for name, read in parts.items()}
    for kind in ("callback_metrics", "logged_metrics", "progress_bar_metrics"):
        metrics = guarded(partial(getattr, trainer, kind))
        if isinstance(metrics, dict):
            state.update(
                {f"{kind}[{name}]": guarded_hash(partial(metrics.get, name)) for name, value in metrics.items()}
            )
    return state


def _function_name(value: Any) -> str:
    while isinstance(value, partial):
        value = value.func
    return str(getattr(value, "__qualname__", type(value).__name__))


def _hooks(owner: object, names: Iterable[str], where: str) -> Iterator[str]:
    for name in names:
        for hook in (getattr(owner, name, None) or {}).values():
            yield f"{where}.{name}: {_function_name(hook)}"


def _entries(owner: object, where: str) -> Iterator[str]:
    for name in vars(owner).keys() - EVERY_MODULE_HAS:
        value = vars(owner)[name]
        yield f"{where}.{name}" + (f" = {_function_name(value)}" if callable(value) else "")


def found_on(trainer: Trainer, module: nn.Module) -> list[str]:
    """Return, sorted, what is on the module, the optimizers, the strategy and torch; to be compared with a control."""

    def on_modules() -> list[str]:
        found = []
        for name, each in module.named_modules():
            where = f"module.{name}".rstrip(".")
            found += [*_hooks(each, HOOKS, where), *_entries(each, where)]
        for name, parameter in module.named_parameters():
            found += _hooks(parameter, ("_backward_hooks", "_post_accumulate_grad_hooks"), f"parameter {name}")
        return found

    def on_optimizers() -> list[str]:
        found = []
        for index, optimizer in enumerate(trainer.optimizers):
            found += [
                *_hooks(optimizer, OPTIMIZER_HOOKS, f"optimizer {index}"),
                *_entries(optimizer, f"optimizer {index}"),
            ]
        return found

    def on_torch() -> list[str]:
        found = [*_hooks(nn.modules.module, GLOBAL_HOOKS, "torch")]
        found += _hooks(torch.optim.optimizer, ("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks"), "torch")
        found += [f"torch function mode {index}" for index in range(torch._C._len_torch_function_stack())]
        found += [f"torch dispatch mode {index}" for index in range(torch._C._len_torch_dispatch_stack())]
        compiler = sys.modules.get("torch._dynamo.eval_frame")
        stance = "default" if compiler is None else compiler._stance.stance
        return [*found, f"compile stance {stance}", f"gradients enabled {torch.is_grad_enabled()}"]

    found: list[str] = []
    for part in (on_modules, on_optimizers, lambda: list(_entries(trainer.strategy, "strategy")), on_torch):
        got = guarded(part)
        found += got if isinstance(got, list) else [got]
    return sorted(found)


# --- the plugin
# ---------------------------------------------------------------------------------------------


def _callbacks(trainer: Trainer) -> list[Callback]:
    return trainer.callbacks  # type: ignore[attr-defined, no-any-return]


def raised_in(error: BaseException | None) -> tuple[str, str]:
    """Return the file of the innermost frame of ``error``, and its line of code."""
    frames = traceback.extract_tb(error.__traceback__) if error is not None else []
    return (frames[-1].filename, frames[-1].line or "") if frames else ("", "")


class Suite:
    """One process's part: patches Lightning once, then notes what each test does."""

    def __init__(self, injection: str, records: Path, tests: frozenset[str] | None) -> None:
        self.make = INJECTIONS[injection]
        self.records = records
        self.tests = tests
        self.process = os.getpid()
        self.injected: list[Callback] = []  # kept for the length of a test, so that ids stay theirs
        self.now: Record | None = None

    def install(self) -> None:
        """Patch the places in which Lightning sets up callbacks and enters a run, and ``warnings.warn``."""
        set_up = _CallbackConnector.on_trainer_init
        handle = trainer_call._call_and_handle_interrupt
        warn = warnings.warn

        @wraps(set_up)
        def on_trainer_init(connector: Any, *args: Any, **kwargs: Any) -> None:
            set_up(connector, *args, **kwargs)
            mine = self.make()
            self.injected += mine
            # A new list: the Trainer's may be the one that the test gave it.
            connector.trainer.callbacks = connector._reorder_callbacks([*connector.trainer.callbacks, *mine])

        @wraps(handle)
        def handle_and_note(trainer: Trainer, function: Any, *args: Any, **kwargs: Any) -> Any:
            stage = getattr(function, "__name__", "")
            if stage == "_fit_impl" and args:
                self._take_out_unfit(trainer, args[0])
            try:
                return handle(trainer, function, *args, **kwargs)
            except BaseException as error:
                if self.now is not None and type(error).__name__ == "ArgumentError":
                    self.now["refused"].append(str(error))
                raise
            finally:
                self._note_run(trainer, stage)

        @wraps(warn)
        def warn_and_note(message: Any, category: Any = None, stacklevel: int = 1, *args: Any, **kwargs: Any) -> None:
            text = str(message)
            if self.now is not None and any(phrase in text for phrase in PHRASES):
                file, code = raised_in(sys.exc_info()[1])
                self.now["disabled"].append({"text": text, "file": file, "code": code})
            warn(message, category, stacklevel + 1, *args, **kwargs)

        _CallbackConnector.on_trainer_init = on_trainer_init  # type: ignore[method-assign, assignment]
        trainer_call._call_and_handle_interrupt = handle_and_note  # type: ignore[assignment]
        warnings.warn = warn_and_note

    def _take_out_unfit(self, trainer: Trainer, module: Any) -> None:
        mine = {id(each) for each in self.injected}
        for callback in list(_callbacks(trainer)):
            reason = guarded(partial(unfit, callback, trainer, module)) if id(callback) in mine else ""
            if reason:
                _callbacks(trainer).remove(callback)
                if self.now is not None:
                    self.now["not_injected"].append(reason)

    def _note_run(self, trainer: Trainer, stage: str) -> None:
        if self.now is None or os.getpid() != self.process:  # a child's records would be lost or come twice
            return
        module = guarded(lambda: trainer.lightning_module)
        if not isinstance(module, nn.Module):
            self.now["runs"].append({"stage": stage, "state": {}, "found": []})
            return
        self.now["runs"].append(
            {"stage": stage, "state": state_of(trainer, module), "found": found_on(trainer, module)}
        )

    def _write(self, line: Record) -> None:
        if os.getpid() != self.process:
            return
        with self.records.open("ab", buffering=0) as file:  # one write a line, so that two workers do not mix theirs
            file.write(json.dumps(line).encode() + b"\n")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        if self.tests is None:
            self._write({"collected": [item.nodeid for item in items]})
        else:
            config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in self.tests])
            items[:] = [item for item in items if item.nodeid in self.tests]

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        self._write({"started": item.nodeid})
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        torch.manual_seed(0)
        self.now = {
            "id": item.nodeid,
            "outcome": "passed",
            "reason": "",
            "seconds": 0.0,
            "runs": [],
            "disabled": [],
            "refused": [],
            "not_injected": [],
        }
        begun = time.perf_counter()
        try:
            return (yield)
        finally:
            self.now["seconds"] = time.perf_counter() - begun
            self._write(self.now)
            self.now = None
            self.injected.clear()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, Any, Any]:
        report: Any = yield
        if self.now is not None and not report.passed and self.now["outcome"] in ("passed", "skipped"):
            self.now["outcome"] = report.outcome if report.when == "call" else f"{report.outcome} in {report.when}"
            crash = getattr(report.longrepr, "reprcrash", None)
            self.now["reason"] = crash.message[:500] if crash is not None else ""
        return report


def pytest_configure(config: pytest.Config) -> None:
    """Install the plugin in a process that runs tests."""
    injection = os.environ.get("LIGHTNING_SUITE_INJECTION")
    if injection is None:
        return
    chosen = os.environ.get("LIGHTNING_SUITE_TESTS")
    tests = frozenset(Path(chosen).read_text().splitlines()) if chosen else None
    suite = Suite(injection, Path(os.environ["LIGHTNING_SUITE_RECORDS"]), tests)
    suite.install()
    config.pluginmanager.register(suite, "lightning_suite")
