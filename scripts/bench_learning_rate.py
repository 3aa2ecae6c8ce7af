"""Is a wrong learning rate called one? Networks of five kinds, two optimizers, the rate right, × 10, × 100 and ÷ 100.

    python scripts/bench_learning_rate.py                    # some minutes
    python scripts/bench_learning_rate.py --only GPT --seeds 1 --json out.json

Each network trains on real data (scikit-learn's digits, text of Python's standard library) under Lightning's defaults,
with the rate of ``BASES``, the best of a coarse search (``--search`` prints it), and with wrong ones. A run is *harmed*
if it has brought down less than 0.9 of what the run with the right rate and the same seed has: of the loss of a
constant prediction, on data that it trained on. Of harmed runs the table counts those in which something was
found, those in which the rate is named: the first of the findings that stand is ``learning_rate_too_high`` or
``learning_rate_too_low``, or its first remedy is to change the rate, and in the right direction. Of the others it
counts those of which something was said at all.
"""

import argparse
import json
import logging
import math
import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from detection import data
from detection.networks.convolutional import PlainCNN
from detection.networks.dense import DIGITS, dense
from lightning.pytorch import LightningModule, Trainer, seed_everything
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_gradtools.callbacks import PathologyDetector
from lightning_gradtools.diagnosis import Finding, Kind, Severity
from lightning_gradtools.diagnosis.finding import Change
from lightning_gradtools.tasks.networks import GPT

STEPS, BATCH, SCORED = 300, 32, 512
HARMED = 0.9  # of what the right rate brings the loss down by
FACTORS = (1.0, 10.0, 100.0, 0.01)
GREYS = 17  # values of a pixel of scikit-learn's digits; one more token stands for a hidden one


class Patches(nn.Module):
    """A small vision transformer: a class token, 16 patches, two pre-norm layers; (n, 1, 8, 8) to (n, 10)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, width, 2, 2)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.place = nn.Parameter(0.02 * torch.randn(1, 17, width))
        self.blocks = nn.TransformerEncoder(_layer(width, norm_first=True), 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch(x).flatten(2).transpose(1, 2)
        h = torch.cat([self.token.expand(len(x), -1, -1), patches], dim=1) + self.place
        y: Tensor = self.head(self.norm(self.blocks(h))[:, 0])
        return y


class Masked(nn.Module):
    """A small encoder of tokens, some hidden: three post-norm layers with GELU; (n, 64) to (n, GREYS, 64)."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.embedding = nn.Embedding(GREYS + 1, width)
        self.place = nn.Parameter(0.02 * torch.randn(1, 64, width))
        self.blocks = nn.TransformerEncoder(_layer(width, norm_first=False), 3, enable_nested_tensor=False)
        self.head = nn.Linear(width, GREYS)

    def forward(self, ids: Tensor) -> Tensor:
        y: Tensor = self.head(self.blocks(self.embedding(ids) + self.place)).transpose(1, 2)
        return y


def _layer(width: int, norm_first: bool) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(
        width, 4, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=norm_first
    )


class Next(nn.Module):
    """A small GPT; (n, t) to (n, vocabulary, t)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = GPT(vocab_size=data.VOCABULARY, context_length=32, width=48, depth=3, heads=4)

    def forward(self, ids: Tensor) -> Tensor:
        y: Tensor = self.net(ids).transpose(1, 2)
        return y


def _hidden_pixels() -> tuple[Tensor, Tensor]:
    """Return the digits' pixels as tokens, of which every sixth or so is hidden, and those that are."""
    ids = torch.from_numpy(load_digits().data).long()  # (n, 64)
    chosen = torch.rand(ids.shape, generator=torch.Generator().manual_seed(0)) < 0.15
    return ids.masked_fill(chosen, GREYS), ids.masked_fill(~chosen, -100)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, Tensor]]]] = {}


def _network(name: str, make: Callable[[], nn.Module], pairs: Callable[[], tuple[Tensor, Tensor]]) -> None:
    NETWORKS[name] = make, pairs


def _of(made: data.Data) -> tuple[Tensor, Tensor]:
    return made.inputs, made.targets


_network("MLP", lambda: dense(DIGITS), lambda: _of(data.digits()))
_network("CNN", lambda: PlainCNN([8, 8, 16]), lambda: _of(data.digit_images()))
_network("GPT", Next, lambda: _of(data.text(32, 2048)))
_network("BERT-like", Masked, _hidden_pixels)
_network("ViT-like", Patches, lambda: _of(data.digit_images()))

Optimizer = Callable[[Iterable[Any], float], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Optimizer] = {
    "AdamW": lambda parameters, lr: torch.optim.AdamW(parameters, lr=lr),
    "SGD, momentum": lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.9),
}
BASES = {
    ("MLP", "AdamW"): 3e-3,
    ("MLP", "SGD, momentum"): 0.03,
    ("CNN", "AdamW"): 1e-2,
    ("CNN", "SGD, momentum"): 0.1,
    ("GPT", "AdamW"): 3e-3,
    ("GPT", "SGD, momentum"): 0.1,
    ("BERT-like", "AdamW"): 1e-3,
    ("ViT-like", "AdamW"): 3e-3,
    ("ViT-like", "SGD, momentum"): 0.03,
}


class Trained(LightningModule):
    """A network trained with cross-entropy at one rate."""

    def __init__(self, net: nn.Module, optimizer: Optimizer, rate: float) -> None:
        super().__init__()
        self.net, self.optimizer, self.rate = net, optimizer, rate

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.parameters(), self.rate)


@dataclass(frozen=True, kw_only=True)
class Run:
    """What became of one run.

    Attributes:
        network: its name.
        optimizer: likewise.
        factor: of the rate.
        seed: of weights and batches.
        gain: 1 - loss / loss of a constant prediction, on training data; minus infinity if not finite.
        findings: those at ``warning`` or above that stand in the end, the root first.
        named: whether the first one blames the rate, in the right direction.
    """

    network: str
    optimizer: str
    factor: float
    seed: int
    gain: float
    findings: list[str]
    named: bool


def fit(network: str, optimizer: str, rate: float, seed: int, *callbacks: Any) -> float:
    """Train, and return how much better than a constant prediction it is."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    seed_everything(seed, verbose=False)
    make, pairs = NETWORKS[network]
    inputs, targets = pairs()
    module = Trained(make(), OPTIMIZERS[optimizer], rate)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        max_epochs=-1,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(TensorDataset(inputs, targets), BATCH, shuffle=True))
    with torch.no_grad():
        found = float(F.cross_entropy(module.net(inputs[:SCORED]), targets[:SCORED]))
    counts = torch.bincount(targets[targets >= 0].flatten()).double()
    shares = counts[counts > 0] / counts.sum()
    constant = float(-(shares * shares.log()).sum())
    return 1 - found / constant if math.isfinite(found) else -math.inf


def blames_rate(finding: Finding, factor: float) -> bool:
    """Say whether ``finding`` blames the rate, in the direction in which it is wrong."""
    kind, change = (
        (Kind.LEARNING_RATE_TOO_HIGH, Change.LOWER_LEARNING_RATE)
        if factor > 1
        else (Kind.LEARNING_RATE_TOO_LOW, Change.RAISE_LEARNING_RATE)
    )
    return finding.kind == kind or bool(finding.remedy and finding.remedy[0].change == change)


def run(network: str, optimizer: str, factor: float, seed: int) -> Run:
    """Train at ``factor`` times the right rate, watched."""
    detector = PathologyDetector(on_warning="log", on_critical="log", table=False)
    gain = fit(network, optimizer, factor * BASES[network, optimizer], seed, detector)
    standing = [each for each in detector.roots() if each.severity >= Severity.WARNING]
    return Run(
        network=network,
        optimizer=optimizer,
        factor=factor,
        seed=seed,
        gain=gain,
        findings=[f"{each.kind}: {each.remedy[0].sentence if each.remedy else ''}" for each in standing],
        named=bool(standing) and blames_rate(standing[0], factor),
    )


def _one(job: tuple[str, str, float, int]) -> Run:
    torch.set_num_threads(1)
    return run(*job)


def print_table(runs: list[Run]) -> None:
    """Print the counts, by factor and network."""
    right = {(each.network, each.optimizer, each.seed): each.gain for each in runs if each.factor == 1}
    heads = ("rate", "runs", "harmed", "found", "rate named", "else said")
    print(f"{'network':12}{'optimizer':16}" + "".join(f"{head:>12}" for head in heads))
    total = [0, 0, 0, 0]
    for factor in FACTORS:
        for network, optimizer in BASES:
            those = [e for e in runs if (e.network, e.optimizer, e.factor) == (network, optimizer, factor)]
            if not those:
                continue
            harmed = [e for e in those if e.gain < HARMED * right[network, optimizer, e.seed]]
            counts = (
                len(harmed),
                sum(bool(e.findings) for e in harmed),
                sum(e.named for e in harmed),
                sum(bool(e.findings) for e in those if e not in harmed),
            )
            total = [a + b for a, b in zip(total, counts, strict=True)]
            cells = (f"x {factor:g}", len(those), *counts)
            print(f"{network:12}{optimizer:16}" + "".join(f"{cell:>12}" for cell in cells))
    print(f"\nof {total[0]} harmed runs something is found in {total[1]}, and the rate is named in {total[2]}")
    print(f"of {len(runs) - total[0]} others something is said of {total[3]}")


def search(only: str | None, seed: int = 0) -> None:
    """Print how good each network becomes at each rate of a coarse grid."""
    for network, optimizer in BASES:
        if only not in (None, network):
            continue
        grid = (1e-3, 3e-3, 1e-2, 3e-2) if optimizer == "AdamW" else (0.01, 0.03, 0.1, 0.3)
        gains = ", ".join(f"{rate:g}: {fit(network, optimizer, rate, seed):.3f}" for rate in grid)
        print(f"{network}, {optimizer}: {gains}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=sorted(NETWORKS), help="one network")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--search", action="store_true", help="search for the right rates instead")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run")
    arguments = parser.parse_args()
    if arguments.search:
        search(arguments.only)
        return 0
    jobs = [
        (network, optimizer, factor, seed)
        for network, optimizer in BASES
        for factor in FACTORS
        for seed in range(arguments.seeds)
        if arguments.only in (None, network)
    ]
    with multiprocessing.get_context("spawn").Pool(arguments.workers) as pool:
        runs = pool.map(_one, jobs, chunksize=1)
    print_table(runs)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(each) for each in runs], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
