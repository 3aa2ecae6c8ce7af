"""What it costs a training step to watch and to clip gradients: ours, Lightning's own and the alternatives.

    python scripts/bench_gradients.py            # about 6 minutes on 2 cores
    python scripts/bench_gradients.py --quick    # about 1 minute, noisier
    python scripts/bench_gradients.py --device cuda --json gradients.json

Rows are ways to clip (all but "bare" do) and to watch; columns are models (M1: 50 x Linear(64, 64) + ReLU,
100 tensors, bound by overhead; M2: a GPT of 2.7M parameters, 76 tensors; M3: a small ResNet, 47 tensors) with
AdamW as torch runs it by default and fused. Every row has a Trainer of its own, all in one process; they take
turns of a few steps, in an order that rotates. A row's figure is the median over rounds of its turn's median
step time divided by that of "Trainer clip" in the same round. "Trainer clip again" is the same thing measured
twice: how far it is from 1 is the noise.

The threshold is so low that every step is clipped, which is the more expensive case for ours: where clipping is not
needed and the host can know it at no cost, ours spares the multiplication, and the Trainer does not.
"""

import argparse
import gc
import itertools
import json
import logging
import platform
import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import grad_norm
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_gradtools.callbacks import GradientClipping, GradientMonitor
from lightning_gradtools.tasks.networks.gpt import GPT

MAX_NORM = 1e-3
WARM_UP = 3  # steps not counted in host synchronisations


def mlp() -> tuple[nn.Module, Tensor, Tensor]:
    linears = [nn.Linear(64, 64) for _ in range(50)]
    for linear in linears:
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
    layers = [layer for linear in linears for layer in (linear, nn.ReLU())]
    return nn.Sequential(*layers), torch.randn(32, 64), torch.randn(32, 64)


def gpt() -> tuple[nn.Module, Tensor, Tensor]:
    tokens = torch.randint(96, (8, 65))
    return GPT(vocab_size=96, context_length=64, depth=6, width=192, heads=6), tokens[:, :-1], tokens[:, 1:]


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(width, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out))
        self.second = nn.Sequential(nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out))
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


def resnet() -> tuple[nn.Module, Tensor, Tensor]:
    shapes = [(16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)]
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        *(ResidualBlock(*shape) for shape in shapes),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    return net, torch.randn(16, 3, 32, 32), torch.randint(10, (16,))


# How to make it, steps that a row takes before it is the next one's turn, and turns.
MODELS = {"M1": (mlp, 6, 60), "M2": (gpt, 3, 24), "M3": (resnet, 4, 40)}


class Task(LightningModule):
    """One of the models on one batch."""

    def __init__(self, model: str, fused: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.x, self.y = MODELS[model][0]()
        self.fused = fused

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        out = self.net(x)
        if y.is_floating_point():
            return F.mse_loss(out, y)
        return F.cross_entropy(out.reshape(-1, out.shape[-1]), y.reshape(-1))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-4, fused=self.fused or None)


class DocumentedRecipe(Callback):
    """The example of Lightning's documentation for ``grad_norm``."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        pl_module.log_dict(grad_norm(pl_module, norm_type=2))


class TutorialsLoop(Callback):
    """What most tutorials write: one norm, and one wait of the host, per parameter."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        total = 0.0
        for parameter in pl_module.parameters():
            if parameter.grad is not None:
                total += parameter.grad.norm().item() ** 2
        self.total = total**0.5


class ComposerLike(Callback):
    """The arithmetic of Composer's OptimizerMonitor for gradients: a norm per parameter, as scalars."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        norms: dict[str, Any] = {}
        total: Any = 0.0
        for name, parameter in pl_module.named_parameters():
            if parameter.grad is not None:
                norms[f"l2_norm/grad/{name}"] = norm = torch.linalg.vector_norm(parameter.grad)
                total = total + norm**2
        norms["l2_norm/grad/global"] = total**0.5
        scalars = {key: value.item() for key, value in norms.items()}
        assert trainer.logger is not None
        trainer.logger.log_metrics(scalars, trainer.global_step)


class Turnstile(Callback):
    """Holds a Trainer, which runs in its own thread, between two batches until it is its turn."""

    def __init__(self, device: str) -> None:
        self.synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
        self.go, self.arrived = threading.Semaphore(0), threading.Semaphore(0)
        self.ticks: list[float] = []
        self.steps_left = 0

    def on_train_batch_start(self, *args: Any) -> None:
        self.synchronize()
        now = time.perf_counter()
        self.ticks.append(now)
        if self.steps_left == 0:
            self.arrived.release()
            self.go.acquire()
            self.ticks = [time.perf_counter()]
        self.steps_left -= 1

    def turn(self, steps: int) -> list[float]:
        """Let ``steps`` steps happen and return the seconds each took."""
        self.steps_left = steps
        self.go.release()
        self.arrived.acquire()
        return [after - before for before, after in itertools.pairwise(self.ticks)]


TRAINER_CLIP = "Trainer clip"
ROWS: dict[str, tuple[bool, bool, Callable[[], list[Callback]]]] = {  # Trainer clips, TensorBoard, callbacks
    "bare": (False, False, list),
    TRAINER_CLIP: (True, False, list),
    "Trainer clip again (A/A)": (True, False, list),
    "documented recipe, TensorBoard": (True, True, lambda: [DocumentedRecipe()]),
    "tutorials' loop": (True, False, lambda: [TutorialsLoop()]),
    "Composer-like, TensorBoard": (True, True, lambda: [ComposerLike()]),
    "ours: clip alone": (False, False, lambda: [GradientClipping(MAX_NORM)]),
    "ours: monitor + clip": (False, False, lambda: [GradientMonitor(1), GradientClipping(MAX_NORM)]),
    "ours: monitor + clip, TensorBoard": (
        False,
        True,
        lambda: [GradientMonitor(1), GradientClipping(MAX_NORM)],
    ),
}


def train(task: Task, row: str, steps: int, device: str, folder: str, *more: Callback) -> None:
    trainer_clips, tensorboard, callbacks = ROWS[row]
    trainer = Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        max_steps=steps,
        callbacks=[*callbacks(), *more],
        logger=TensorBoardLogger(folder, name=None) if tensorboard else False,
        log_every_n_steps=1,
        gradient_clip_val=MAX_NORM if trainer_clips else None,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    batches: Any = [(task.x, task.y)] * steps  # a list is a dataset, whatever its type says
    trainer.fit(task, DataLoader(batches, batch_size=None))


def take_turns(
    runs: Mapping[str, Callable[[Callback], object]], rounds: int, steps_per_turn: int, device: str
) -> dict[str, list[float]]:
    """Return for every run its step times, one per round, in seconds; the first two rounds warm up and are left out.

    Args:
        runs: by name, what trains for ``rounds * steps_per_turn + 1`` steps or more with the callback that it is given.
        rounds: turns of each; 3 or more.
        steps_per_turn: 2 or more.
        device: "cpu" or "cuda".

    Raises:
        Exception: what a run raised, once the others were let go.
    """
    turnstiles = {row: Turnstile(device) for row in runs}
    failures: list[Exception] = []

    def to_its_end(row: str) -> None:
        try:
            runs[row](turnstiles[row])
        except Exception as failure:
            failures.append(failure)
        turnstiles[row].arrived.release()  # nobody is to wait for one that will not come again

    def leave(rows: Iterable[str]) -> None:
        for row in rows:
            turnstiles[row].steps_left = -1  # no more turns
            turnstiles[row].go.release()
            threads[row].join()
        if failures:
            raise failures[0]

    threads = {row: threading.Thread(target=to_its_end, args=(row,), daemon=True) for row in runs}
    times: dict[str, list[float]] = {row: [] for row in runs}
    rows = list(runs)
    for place, row in enumerate(rows):
        threads[row].start()
        turnstiles[row].arrived.acquire()
        if failures:
            leave(rows[: place + 1])
    for number in range(rounds):
        start = number % len(rows)
        for row in rows[start:] + rows[:start]:
            seconds = turnstiles[row].turn(steps_per_turn)
            if failures:
                leave(rows)
            times[row].append(statistics.median(seconds[1:]))  # the first finds the caches full of others' data
    leave(rows)
    return {row: found[2:] for row, found in times.items()}


def compare(model: str, fused: bool, rows: list[str], rounds: int, device: str, folder: str) -> dict[str, Any]:
    """Return for every row its step times, one per round, in seconds."""
    steps_per_turn = MODELS[model][1]
    steps = rounds * steps_per_turn + 1
    runs = {row: partial(train, Task(model, fused), row, steps, device, folder) for row in rows}
    return take_turns(runs, rounds, steps_per_turn, device)


def summary(times: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    result = {}
    for row, found in times.items():
        ratios = [mine / clip for mine, clip in zip(found, times[TRAINER_CLIP], strict=True)]
        spare = [mine - bare for mine, bare in zip(found, times["bare"], strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        result[row] = {
            "step_ms": 1e3 * statistics.median(found),
            "over_bare_us": 1e6 * statistics.median(spare),
            "ratio": statistics.median(ratios),
            "quartile_low": low,
            "quartile_high": high,
        }
    return result


def bytes_held() -> int:
    """Return the bytes of all tensors alive, those of a compiler's without memory left out."""
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensors = [thing for thing in gc.get_objects() if type(thing) in (Tensor, nn.Parameter)]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


class MemoryHeld(Callback):
    """Bytes of all tensors alive between two steps."""

    def __init__(self) -> None:
        self.bytes = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, index: int) -> None:
        self.bytes = bytes_held()


class HostSyncs(Callback):
    """Counts the times a step makes the host wait for the GPU, other than the data's way there.

    To be the last callback; ``first`` is to be the first, or what others do at the start of a batch is not counted.
    """

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.first = _Beginning(self)
        self._watch: Any = None
        self._caught: Any = None

    def begin(self) -> None:
        if self._watch is None:
            self._watch = warnings.catch_warnings(record=True)
            self._caught = self._watch.__enter__()
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")

    def on_train_batch_start(self, *args: Any) -> None:
        self.begin()

    def on_train_batch_end(self, *args: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")
        self._watch.__exit__(None, None, None)
        self._watch = None
        self.counts.append(sum("synchronizing CUDA operation" in str(warning.message) for warning in self._caught))


class _Beginning(Callback):
    def __init__(self, syncs: HostSyncs) -> None:
        self._syncs = syncs

    def on_train_batch_start(self, *args: Any) -> None:
        self._syncs.begin()


def holdings(model: str, fused: bool, rows: list[str], device: str, folder: str) -> dict[str, dict[str, Any]]:
    result: dict[str, dict[str, Any]] = {}
    for row in rows:
        memory = MemoryHeld()
        train(Task(model, fused), row, 3, device, folder, memory)
        result[row] = {"held_bytes": memory.bytes}
        if device == "cuda":
            syncs = HostSyncs()
            torch.cuda.reset_peak_memory_stats()
            train(Task(model, fused), row, 8, device, folder, syncs)
            result[row]["peak_bytes"] = torch.cuda.max_memory_allocated()
            result[row]["host_syncs_per_step"] = statistics.median(syncs.counts[WARM_UP:])
    for row in rows:
        result[row]["held_over_bare_bytes"] = result[row]["held_bytes"] - result["bare"]["held_bytes"]
    return result


def table(results: dict[str, dict[str, dict[str, Any]]], rows: list[str], key: str, form: str) -> str:
    width = max(map(len, rows))
    lines = [" " * width + "".join(f"{column:>14}" for column in results)]
    lines += [
        f"{row:{width}}" + "".join(f"{form.format(results[column][row][key]):>14}" for column in results)
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument(
        "--rounds", type=int, help="turns per row (default by model: 60, 24 and 40; a quarter of it if quick)"
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--optimizers", nargs="+", choices=["default", "fused"], default=["default", "fused"])
    parser.add_argument("--rows", nargs="+", help="only rows with one of these words in their name")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path, help="also write everything, every round included, here")
    arguments = parser.parse_args()
    rows = [
        row
        for row in ROWS
        if row in ("bare", TRAINER_CLIP) or not arguments.rows or any(word in row for word in arguments.rows)
    ]
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)

    times: dict[str, Any] = {}
    results: dict[str, dict[str, dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for model, optimizer in itertools.product(arguments.models, arguments.optimizers):
            column = f"{model} {optimizer}"
            settings = model, optimizer == "fused", rows
            rounds = arguments.rounds or MODELS[model][2] // (4 if arguments.quick else 1)
            times[column] = compare(*settings, rounds, arguments.device, folder)
            held = holdings(*settings, arguments.device, folder)
            results[column] = {row: {**found, **held[row]} for row, found in summary(times[column]).items()}

    print(f"torch {torch.__version__}, {platform.machine()}, {arguments.device}, 1 thread")
    print(f"step time / that of {TRAINER_CLIP!r}, median of paired turns")
    print(table(results, rows, "ratio", "{:.3f}"))
    print("\nits quartiles")
    print(table(results, rows, "quartile_low", "{:.3f}"))
    print(table(results, rows, "quartile_high", "{:.3f}"))
    print("\nmicroseconds over bare")
    print(table(results, rows, "over_bare_us", "{:.0f}"))
    print("\nmilliseconds per step")
    print(table(results, rows, "step_ms", "{:.2f}"))
    print("\nbytes held between steps over bare")
    print(table(results, rows, "held_over_bare_bytes", "{:d}"))
    if arguments.device == "cuda":
        print("\nhost synchronisations per step")
        print(table(results, rows, "host_syncs_per_step", "{:.0f}"))
        print("\npeak memory, MiB")
        mebibytes = {
            column: {row: {"peak": found["peak_bytes"] / 2**20} for row, found in cells.items()}
            for column, cells in results.items()
        }
        print(table(mebibytes, rows, "peak", "{:.1f}"))
    if arguments.json:
        arguments.json.write_text(json.dumps({"results": results, "seconds": times}, indent=1))


if __name__ == "__main__":
    main()
