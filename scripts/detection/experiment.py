"""The Lightning modules that recipes train."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from detection.losses import cross_entropy
from detection.networks.dense import dense
from detection.networks.generative import AdversarialPair, Variational
from detection.optimizers import adam

Loss = Callable[[Tensor, Tensor], Tensor]
Corruption = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
SCORED_WITH = 256  # generated points


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


class NormalisedAdversarial(Adversarial):
    """A generator with batch norm, and a discriminator of one wide hidden layer."""

    def __init__(self, lr: tuple[float, float]) -> None:
        super().__init__(lr)
        self.pair.generator = dense([4, 32, 32, 2], between=nn.BatchNorm1d)
        self.pair.discriminator = dense([2, 96, 1], nn.ELU)


class SpectralAdversarial(Adversarial):
    """A discriminator whose matrices have a largest singular value of 1."""

    def __init__(self) -> None:
        super().__init__((1e-3, 4e-3))
        self.pair.generator = dense([4, 40, 40, 2], nn.SiLU)
        sizes = [(2, 64), (64, 64)]
        hidden = [part for size in sizes for part in (spectral_norm(nn.Linear(*size)), nn.LeakyReLU(0.1))]
        self.pair.discriminator = nn.Sequential(*hidden, nn.Linear(64, 1))


class TwoTasks(Experiment):
    """Ten outputs tell the digit, one more whether it is odd; both losses are trained, the first is the objective."""

    def __init__(self) -> None:
        super().__init__(
            dense([64, 48, 48, 11], nn.SiLU),
            adam(3e-3),
            objective=lambda output, target: cross_entropy(output[:, :10], target),
            loss=lambda output, target: (
                cross_entropy(output[:, :10], target)
                + 0.3 * F.binary_cross_entropy_with_logits(output[:, 10], (target % 2).to(output.dtype))
            ),
        )

    def measured(self, net: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        objective, trained, output = super().measured(net, x, y)
        return objective, trained, None if output is None else output[:, :10]


class TakingTurns(Experiment):
    """Ten outputs tell the digit and two whether it is odd; each step trains one of the two layers, in turn."""

    def __init__(self) -> None:
        net = nn.ModuleDict({"trunk": dense([64, 48, 32], nn.ELU), "digit": nn.Linear(32, 10), "odd": nn.Linear(32, 2)})
        super().__init__(net, adam(5e-3))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        digit, odd = self._outputs(self.net, x)
        return cross_entropy(odd, y % 2) if self.global_step % 2 else cross_entropy(digit, y)

    @staticmethod
    def _outputs(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        assert isinstance(net, nn.ModuleDict)
        h = F.elu(net["trunk"](x))
        return net["digit"](h), net["odd"](h)

    def measured(self, net: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        digit, odd = self._outputs(net, x)
        objective = cross_entropy(digit, y)
        return objective, objective + cross_entropy(odd, y % 2), digit


class WithRandomCode(Experiment):
    """An image to be given back through a random code, and the code's distance to the normal distribution."""

    def __init__(self) -> None:
        super().__init__(Variational(), adam(5e-3), lambda o, t: F.mse_loss(o[:, :64], t), self.bound)

    @staticmethod
    def bound(output: Tensor, target: Tensor) -> Tensor:
        mean, log_variance = output[:, 64:].chunk(2, dim=1)
        apart = (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        return F.mse_loss(output[:, :64], target) + 1e-3 * apart

    def measured(self, net: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        objective, trained, output = super().measured(net, x, y)
        return objective, trained, None if output is None else output[:, :64]
