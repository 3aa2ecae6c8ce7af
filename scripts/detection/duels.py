"""Lightning modules with several optimizers that are stepped by hand, or with two opposed losses."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection.experiment import Adversarial, Experiment
from detection.losses import cross_entropy
from detection.methods import Method
from detection.networks.dense import dense
from detection.optimizers import adam, sgd


class Duel(Adversarial):
    """A critic that is stepped ``rounds`` times for each step of the generator.

    Subclasses say what the two losses are, of the scores of real and made points.
    """

    rounds = 1

    def critic_loss(self, real: Tensor, made: Tensor) -> Tensor:
        """Return what the critic wants small; Wasserstein's by default."""
        return made.mean() - real.mean()

    def generator_loss(self, made: Tensor) -> Tensor:
        """Return what the generator wants small."""
        return -made.mean()

    def penalty(self, critic: nn.Module, real: Tensor, made: Tensor) -> Tensor:
        """Return what is added to the critic's loss."""
        return real.new_zeros(())

    def after_critic(self) -> None:
        """Do what follows each step of the critic."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        real, _ = batch
        generator, critic = self.optimizers()  # type: ignore[attr-defined]
        for _ in range(self.rounds):
            made = self.pair.generator(torch.randn(len(real), 4)).detach()
            loss = self.critic_loss(self.pair.discriminator(real), self.pair.discriminator(made))
            loss = loss + self.penalty(self.pair.discriminator, real, made)
            critic.zero_grad()
            self.manual_backward(loss)
            critic.step()
            self.after_critic()
        own = self.generator_loss(self.pair.discriminator(self.pair.generator(torch.randn(len(real), 4))))
        generator.zero_grad()
        self.manual_backward(own)
        generator.step()
        return loss.detach()

    def measured(self, net: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        objective, _, _ = super().measured(net, x, y)
        made = net.generator(torch.randn(len(x), 4, dtype=x.dtype))  # type: ignore[operator]
        scores = [net.discriminator(points) for points in (x, made)]  # type: ignore[operator]
        return objective, self.critic_loss(*scores) + self.generator_loss(scores[1]) * 0.5, None


def critic(activation: Callable[[], nn.Module]) -> nn.Module:
    """Return a critic whose output has no bias: a difference of its scores does not see one."""
    return nn.Sequential(dense([2, 48, 48], activation), activation(), nn.Linear(48, 1, bias=False))


class Penalised(Duel):
    """The slope of the critic is held near 1 by a penalty, a gradient of a gradient (arXiv:1704.00028)."""

    rounds = 3

    def __init__(self) -> None:
        super().__init__((1e-3, 2e-3))
        self.optimizer = partial(torch.optim.Adam, betas=(0.0, 0.9))
        self.pair.discriminator = critic(nn.SiLU)

    def penalty(self, critic: nn.Module, real: Tensor, made: Tensor) -> Tensor:
        share = torch.rand(len(real), 1)
        between = (share * real + (1 - share) * made).requires_grad_()
        (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
        return 5 * (slope.norm(dim=1) - 1).square().mean()  # type: ignore[no-any-return]


class Clipped(Duel):
    """The critic's weights are cut to ±0.2 after each of its steps (Arjovsky et al., arXiv:1701.07875)."""

    rounds = 2

    def __init__(self) -> None:
        super().__init__((2e-3, 5e-3))
        self.optimizer = torch.optim.RMSprop
        self.pair.discriminator = critic(lambda: nn.LeakyReLU(0.2))

    def after_critic(self) -> None:
        for weight in self.pair.discriminator.parameters():
            weight.data.clamp_(-0.2, 0.2)


class Hinge(Duel):
    """Scores beyond ±1 count no more."""

    def critic_loss(self, real: Tensor, made: Tensor) -> Tensor:
        return (1 - real).clamp(min=0).mean() + (1 + made).clamp(min=0).mean()


class LeastSquares(Duel):
    """Scores are to be 1 for real points and 0 for made ones (Mao et al., arXiv:1611.04076)."""

    def __init__(self) -> None:
        super().__init__((1e-3, 2e-3))

    def critic_loss(self, real: Tensor, made: Tensor) -> Tensor:
        return (real - 1).square().mean() + made.square().mean()

    def generator_loss(self, made: Tensor) -> Tensor:
        return (made - 1).square().mean()


class ActorCritic(Experiment):
    """An actor gives a number, a critic learns the reward of it from noisy tries, and the actor climbs the critic.

    The reward is minus the squared distance to the target, which the actor never sees.
    """

    def __init__(self) -> None:
        parts = {"actor": dense([2, 48, 48, 1], nn.Tanh), "critic": dense([3, 64, 64, 1], nn.SiLU)}
        super().__init__(nn.ModuleDict(parts), adam(2e-3))
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        return [self.optimizer(part.parameters()) for part in self.net.children()]

    @staticmethod
    def losses(net: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the critic and the actor want small."""
        own = net["actor"](x)
        tried = own.detach() + 0.5 * torch.randn_like(own)
        told = net["critic"](torch.cat([x, tried], dim=1))
        return F.mse_loss(told, -(tried - y).square()), -net["critic"](torch.cat([x, own], dim=1)).mean()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        of_actor, of_critic = self.optimizers()  # type: ignore[attr-defined]
        critic_loss, _ = self.losses(self.net, *batch)
        self.toggle_optimizer(of_critic)
        of_critic.zero_grad()
        self.manual_backward(critic_loss)
        of_critic.step()
        self.untoggle_optimizer(of_critic)
        self.toggle_optimizer(of_actor)
        _, actor_loss = self.losses(self.net, *batch)
        of_actor.zero_grad()
        self.manual_backward(actor_loss)
        of_actor.step()
        self.untoggle_optimizer(of_actor)
        return actor_loss.detach()

    def measured(self, net: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        assert isinstance(net, nn.ModuleDict)
        output = net["actor"](x)
        return F.mse_loss(output, y), sum(self.losses(net, x, y), x.new_zeros(())), output


class Alternating(Experiment):
    """A table of numbers as the product of two factors, of which each batch steps one, then the other."""

    def __init__(self) -> None:
        factors = {"rows": nn.Embedding(48, 4), "columns": nn.Embedding(32, 4)}
        for factor in factors.values():
            nn.init.normal_(factor.weight, std=0.3)
        super().__init__(nn.ModuleDict(factors), sgd(2.0))
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        return [self.optimizer(part.parameters()) for part in self.net.children()]

    @staticmethod
    def product(net: Any, x: Tensor) -> Tensor:
        """Return the table's entry in each given row and column."""
        return (net["rows"](x[:, 0]) * net["columns"](x[:, 1])).sum(dim=1, keepdim=True)  # type: ignore[no-any-return]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = x.new_zeros(())
        for optimizer in self.optimizers():  # type: ignore[union-attr]
            self.toggle_optimizer(optimizer)
            loss = F.mse_loss(self.product(self.net, x), y)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.untoggle_optimizer(optimizer)
        return loss.detach()

    def measured(self, net: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        output = self.product(net, x)
        loss = F.mse_loss(output, y)
        return loss, loss, output


class SharpnessAware(Experiment):
    """Each step takes the gradient at a worse place nearby (Foret et al., arXiv:2010.01412)."""

    def __init__(self, radius: float = 0.05) -> None:
        super().__init__(dense([64, 64, 64, 10], nn.SiLU), sgd(0.1, momentum=0.9))
        self.automatic_optimization = False
        self.radius = radius

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        optimizer: Any = self.optimizers()
        weights = list(self.net.parameters())
        loss = cross_entropy(self(x), y)
        slopes = torch.autograd.grad(loss, weights)
        size = torch.stack([slope.norm() for slope in slopes]).norm() + 1e-12
        with torch.no_grad():
            for weight, slope in zip(weights, slopes, strict=True):
                weight.add_(slope, alpha=float(self.radius / size))
        optimizer.zero_grad()
        self.manual_backward(cross_entropy(self(x), y))
        with torch.no_grad():
            for weight, slope in zip(weights, slopes, strict=True):
                weight.sub_(slope, alpha=float(self.radius / size))
        optimizer.step()
        return loss.detach()


class TurnedBack(torch.autograd.Function):
    """The input itself, with the gradient's sign turned."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(context: Any, slope: Tensor) -> Tensor:
        return -slope


class Reversed(Method):
    """Features that tell the class but not the source: the source's gradient comes back with its sign turned.

    The source's loss rises to that of chance, as it should (Ganin et al., arXiv:1505.07818).
    """

    def __init__(self) -> None:
        parts = {
            "features": dense([13, 32, 24], nn.ELU),
            "classes": nn.Linear(24, 3),
            "source": dense([24, 24, 2], nn.ELU),
        }
        super().__init__(nn.ModuleDict(parts), adam(3e-3), self.both, lambda net, x, y: self.classes(net, x, y))

    @staticmethod
    def classes(net: Any, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of the classes alone."""
        return cross_entropy(net["classes"](F.elu(net["features"](x[:, :13]))), y)

    @staticmethod
    def both(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
        """Return the sum of both losses."""
        features = F.elu(net["features"](x[:, :13]))
        source = net["source"](TurnedBack.apply(features))
        return cross_entropy(net["classes"](features), y) + cross_entropy(source, x[:, 13].long())


class Uncooperative(Experiment):
    """Features that tell the digit while a probe, with an optimizer of its own, must not tell whether it is above 4."""

    def __init__(self) -> None:
        parts = {
            "features": dense([64, 48, 48], nn.SiLU),
            "digit": nn.Linear(48, 10),
            "probe": dense([48, 24, 1], nn.SiLU),
        }
        super().__init__(nn.ModuleDict(parts), adam(3e-3))
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        def weights(*names: str) -> Iterable[Any]:
            return [p for name in names for p in self.net.get_submodule(name).parameters()]

        return [self.optimizer(weights("features", "digit")), self.optimizer(weights("probe"))]

    @staticmethod
    def losses(net: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the digit's loss, the probe's loss and the logits of the digit."""
        features = F.silu(net["features"](x))
        told = net["probe"](features)[:, 0]
        logits = net["digit"](features)
        return cross_entropy(logits, y), F.binary_cross_entropy_with_logits(told, (y > 4).to(x.dtype)), logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        main, probe = self.optimizers()  # type: ignore[attr-defined]
        for optimizer, sign in ((probe, 1.0), (main, -0.1)):
            self.toggle_optimizer(optimizer)
            digit, probed, _ = self.losses(self.net, *batch)
            optimizer.zero_grad()
            self.manual_backward(probed if optimizer is probe else digit + sign * probed)
            optimizer.step()
            self.untoggle_optimizer(optimizer)
        return digit.detach()

    def measured(self, net: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        digit, probed, logits = self.losses(net, x, y)
        return digit, digit + probed, logits
