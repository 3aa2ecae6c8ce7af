"""What watching with `PathologyDetector` costs a training step, at its default settings.

    python scripts/bench_detector.py            # some minutes on 2 cores
    python scripts/bench_detector.py --rounds 8

Models and method are those of `bench_gradients.py`: every row has a Trainer of its own, all in one process, and they
take turns in an order that rotates. Here a turn is 40 steps, two periods of the detector's sampling, and its figure is
the sum of them, so that the expensive steps count as often as they come. Time is the CPU time of the row's own thread,
which other processes on the machine hardly disturb. The ratio is to "bare" in the same round, median over rounds;
"bare again" is how far from 1 noise alone gets. Turns begin after the densely sampled first steps.
"""

import argparse
import logging
import statistics
import threading
import time
import warnings
from typing import Any

import torch
from bench_gradients import MODELS, Task, Turnstile
from lightning.pytorch import Callback, Trainer
from torch.utils.data import DataLoader

from lightning_gradtools import PathologyDetector

TURN = 40
ROWS = ("bare", "bare again", "detector")


class CpuTurnstile(Turnstile):
    """Reads the clock of its own thread."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.first = self.last = 0.0

    def on_train_batch_start(self, *args: Any) -> None:
        self.last = time.thread_time()
        super().on_train_batch_start(*args)
        if len(self.ticks) == 1:
            self.first = time.thread_time()

    def spent(self, steps: int) -> float:
        """Let ``steps`` steps happen and return the seconds of CPU time that they took."""
        self.turn(steps)
        return self.last - self.first


def train(task: Task, row: str, steps: int, *more: Callback) -> None:
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        callbacks=[*([PathologyDetector(table=False)] if row == "detector" else []), *more],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    batches: Any = [(task.x, task.y)] * steps  # a list is a dataset, whatever its type says
    trainer.fit(task, DataLoader(batches, batch_size=None))


def compare(model: str, rounds: int) -> dict[str, list[float]]:
    """Return for every row the ratios of its turns to those of "bare"."""
    turnstiles = {row: CpuTurnstile() for row in ROWS}
    threads = [
        threading.Thread(target=train, args=(Task(model, False), row, (rounds + 1) * TURN + 2, turnstile))
        for row, turnstile in turnstiles.items()
    ]
    for thread, turnstile in zip(threads, turnstiles.values(), strict=True):
        thread.start()
        turnstile.arrived.acquire()
    times: dict[str, list[float]] = {row: [] for row in ROWS}
    for number in range(rounds + 1):
        start = number % len(ROWS)
        for row in ROWS[start:] + ROWS[:start]:
            times[row].append(turnstiles[row].spent(TURN))
    for thread, turnstile in zip(threads, turnstiles.values(), strict=True):
        turnstile.steps_left = 2
        turnstile.go.release()
        thread.join()
    return {row: [a / b for a, b in zip(found[1:], times["bare"][1:], strict=True)] for row, found in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    print(f"mean step time / bare, median of {arguments.rounds} paired turns of {TURN} steps [quartiles]")
    for model in arguments.models:
        for row, ratios in compare(model, arguments.rounds).items():
            low, middle, high = statistics.quantiles(ratios, n=4)
            if row != "bare":
                print(f"{model}  {row:12} {middle:.3f}  [{low:.3f}, {high:.3f}]", flush=True)


if __name__ == "__main__":
    main()
