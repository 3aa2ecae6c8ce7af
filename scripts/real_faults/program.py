"""What a program of the record is: a fault, its repair, and what the record says of it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from real_faults.ported import Ported

HALVES = ("report", "tune")


class Label(str, Enum):
    """What the record says was wrong."""

    ACTIVATION = "activation"
    LOSS = "loss"
    LEARNING_RATE = "learning rate"
    EPOCHS = "epochs"
    OPTIMIZER = "optimizer"
    PREPROCESSING = "preprocessing"
    INITIALIZATION = "initialization"
    BATCH_SIZE = "batch size"
    LAYERS = "layers"
    LOOP = "loop"

    def __str__(self) -> str:
        return self.value


class Source(str, Enum):
    """Who published the faulty program."""

    DEEPFD = "DeepFD"
    AUTOTRAINER = "AutoTrainer"
    TRAINCHECK = "TrainCheck"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, kw_only=True)
class Data:
    """What one twin is trained on.

    Attributes:
        inputs: (samples, ...), as the program scales them.
        targets: (samples, ...), as the program gives them to the loss.
        truth: what the task asks for, where that is not the targets.
    """

    inputs: Tensor
    targets: Tensor
    truth: Tensor | None = None

    @property
    def wanted(self) -> Tensor:
        """What predictions are scored against."""
        return self.targets if self.truth is None else self.truth


@dataclass(frozen=True, kw_only=True)
class Twin:
    """One way to write the program.

    Attributes:
        network: returns the freshly initialised network; called after the seed is set and the data made.
        loss: returns the loss, of outputs and targets.
        optimizer: called with the parameters.
        data: returns the training set; called after the seed is set.
        batch_size: samples in a batch.
        epochs: how often the training set is gone through.
        module: the LightningModule that trains the network.
    """

    network: Callable[[], nn.Module]
    loss: Callable[[], nn.Module]
    optimizer: Callable[[Iterable[Any]], Optimizer]
    data: Callable[[], Data]
    batch_size: int
    epochs: int
    module: Callable[[nn.Module, nn.Module, Callable[[Iterable[Any]], Optimizer]], LightningModule] = Ported


@dataclass(frozen=True, kw_only=True)
class Program:
    """A faulty program and its repair.

    Attributes:
        name: its id here; those of DeepFD's benchmark are named by their post or repository.
        source: who published it.
        labels: what the record says was wrong, all of it, also what is not ported.
        faulty: the program.
        repaired: the same with the record's patch.
        score: of outputs and of what is wanted, both of the training set; more is better, 1 is perfect.
        link: where the program was published.
        note: what is not as in the record, and why.
    """

    name: str
    source: Source
    labels: frozenset[Label]
    faulty: Twin
    repaired: Twin
    score: Callable[[Tensor, Tensor], float]
    link: str
    note: str = ""

    @property
    def half(self) -> str:
        """``report`` or ``tune``, by a digest of the name; rules are chosen by the latter alone."""
        return half_of(self.name)

    @property
    def post(self) -> str:
        """The key of the program in the published sheets."""
        return self.name.partition("-")[2]


def half_of(name: str) -> str:
    """Return the half that a name belongs to."""
    return HALVES[sha256(name.encode()).digest()[0] % 2]


def labels(*names: Label) -> frozenset[Label]:
    return frozenset(names)
