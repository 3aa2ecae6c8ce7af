"""What a recipe is, and the Lightning modules that recipes train."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from detection.data import Data
from detection.networks import AdversarialPair

Loss = Callable[[Tensor, Tensor], Tensor]
Corruption = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
SCORED_WITH = 256  # generated points


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean over samples, and over positions of sequences."""
    return F.cross_entropy(output.flatten(0, -2), target.flatten())


class Experiment(LightningModule):
    """A network and one optimizer.

    Args:
        net: the network.
        optimizer: called with the trainable parameters.
        objective: what the user wants small; it tells how well the run went.
        loss: what is trained, where a recipe makes it something else than the objective.
        schedule: factor of the learning rate at each step.
        corrupt: changes the batch of a step.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[[Iterable[Any]], Optimizer],
        objective: Loss = cross_entropy,
        loss: Loss | None = None,
        schedule: Callable[[int], float] | None = None,
        corrupt: Corruption | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.optimizer, self.schedule = optimizer, schedule
        self.objective, self.loss = objective, loss or objective
        self.corrupt = corrupt

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x)
        return y

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        if self.corrupt is not None:
            x, y = self.corrupt(x, y, self.global_step)
        return self.loss(self(x), y)

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer([p for p in self.parameters() if p.requires_grad])
        if self.schedule is None:
            return optimizer
        scheduler = LambdaLR(optimizer, self.schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def measured(self, net: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return objective, trained loss and output of a copy of the network on the whole training set."""
        output = net(x)
        return self.objective(output, y), self.loss(output, y), output


class Adversarial(Experiment):
    """A generator and a discriminator with an optimizer each, stepped by hand.

    The objective is the squared distance of the means of generated and real points plus that of their standard
    deviations, of the same noise at every measurement.
    """

    def __init__(self, lr: tuple[float, float] = (2e-3, 2e-3), scale: float = 1.0) -> None:
        super().__init__(AdversarialPair(scale=scale), partial(torch.optim.Adam, betas=(0.5, 0.99)))
        self.automatic_optimization = False
        self.lr = lr

    @property
    def pair(self) -> AdversarialPair:
        """The network."""
        assert isinstance(self.net, AdversarialPair)
        return self.net

    def configure_optimizers(self) -> Any:
        return [
            self.optimizer([{"params": list(part.parameters()), "lr": lr}])
            for part, lr in zip((self.pair.generator, self.pair.discriminator), self.lr, strict=True)
        ]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        real, _ = batch
        generator, discriminator = self.optimizers()  # type: ignore[attr-defined]
        noise = torch.randn(len(real), 4)
        made = self.pair.generator(noise)
        judged = torch.cat([self.pair.discriminator(real), self.pair.discriminator(made.detach())])
        truth = torch.cat([torch.ones(len(real), 1), torch.zeros(len(real), 1)])
        loss = F.binary_cross_entropy_with_logits(judged, truth)
        self.toggle_optimizer(discriminator)
        discriminator.zero_grad()
        self.manual_backward(loss)
        discriminator.step()
        self.untoggle_optimizer(discriminator)
        self.toggle_optimizer(generator)
        fooled = self.pair.discriminator(self.pair.generator(noise))
        generator_loss = F.binary_cross_entropy_with_logits(fooled, torch.ones_like(fooled))
        generator.zero_grad()
        self.manual_backward(generator_loss)
        generator.step()
        self.untoggle_optimizer(generator)
        return loss.detach() + generator_loss.detach()

    def measured(self, net: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        assert isinstance(net, AdversarialPair)
        noise = torch.randn(SCORED_WITH, 4, generator=torch.Generator().manual_seed(0)).to(x.dtype)
        made = net.generator(noise)
        objective = (made.mean(0) - x.mean(0)).square().sum() + (made.std(0) - x.std(0)).square().sum()
        fooled, real = net.discriminator(made), net.discriminator(x)
        return objective, F.softplus(-fooled).mean() + F.softplus(-real).mean(), None


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
            they belong to `choose`, and new ones are due. `fresh` are healthy ones alone, written after the rules were
            last changed, for the false-alarm rate. `runs.recipes` sets it.
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


def adam(lr: float = 2e-3, **settings: Any) -> Callable[[Iterable[Any]], Optimizer]:
    return partial(torch.optim.Adam, lr=lr, **settings)


def sgd(lr: float = 0.1, **settings: Any) -> Callable[[Iterable[Any]], Optimizer]:
    return partial(torch.optim.SGD, lr=lr, **settings)
