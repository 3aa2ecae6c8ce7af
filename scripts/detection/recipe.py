"""What a recipe is."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from torch import nn
from torch.optim import Optimizer

from detection.data import Data
from detection.experiment import Experiment

HALVES = ("choose", "report", "fresh", "fourth")
Make = Callable[..., Callable[[], Experiment]]


@dataclass(frozen=True)
class Recipe:
    """One way to train, sick or healthy.

    Attributes:
        name: of the recipe.
        module: returns the freshly initialised module; called after the seed is set.
        data: returns the training set.
        twin: the healthy recipe that the outcome is compared with; its own name if it is one that others are
            compared with.
        fault: what was done wrong on purpose, "" for a healthy recipe. It is for the reader: a run's labels come
            from its measured outcome.
        steps: optimizer steps, as `Trainer(max_steps)` counts them.
        batch_size: samples in a batch.
        trainer: further arguments of the `Trainer`, made anew for each run.
        hard: a healthy run of a kind that is known to set detectors off.
        location: module paths of a fault that sits in a known place.
        half: `choose`, for choosing rules and thresholds, or `report`. Whoever chooses looks at the runs until the
            detector is right about them, so what is reported comes from others: recipes that were written without
            looking at the detector or at what it says, and that nothing was chosen by. Once they have been looked at
            they become `choose`, and new ones are due. `fresh` are healthy ones alone, written after the rules were
            last changed, for the false-alarm rate; `fourth` are further such ones, of the kinds that are hardest to
            leave alone.
    """

    name: str
    module: Callable[[], Experiment]
    data: Callable[[], Data]
    twin: str
    fault: str = ""
    steps: int = 300
    batch_size: int = 64
    trainer: Callable[[], dict[str, Any]] = field(default=dict)
    hard: bool = False
    location: tuple[str, ...] = ()
    half: str = "choose"


def classes(
    net: Callable[[], nn.Module], optimizer: Callable[..., Optimizer], **settings: Any
) -> Callable[[], Experiment]:
    """Return what makes a classifier trained with cross-entropy, or what ``settings`` say."""
    return lambda: Experiment(net(), optimizer, **settings)


def numbers(
    net: Callable[[], nn.Module], optimizer: Callable[..., Optimizer], **settings: Any
) -> Callable[[], Experiment]:
    """Return what makes a regression by least squares."""
    return lambda: Experiment(net(), optimizer, **{"objective": F.mse_loss, **settings})


def trained(
    name: str,
    net: Callable[..., nn.Module],
    optimizer: Callable[..., Optimizer],
    *,
    make: Make = classes,
    **more: Any,
) -> Recipe:
    """Return the recipe of a network and an optimizer.

    Args:
        name: of the recipe.
        net: returns the freshly initialised network.
        optimizer: called with the trainable parameters.
        make: `classes` or `numbers`.
        more: what `Experiment` takes (``loss``, ``objective``, ``schedule``, ``corrupt``), and the further fields of
            the `Recipe`.
    """
    settings = {key: more.pop(key) for key in ("loss", "objective", "schedule", "corrupt") if key in more}
    return Recipe(name, make(net, optimizer, **settings), **more)
