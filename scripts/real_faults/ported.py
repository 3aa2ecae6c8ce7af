"""The LightningModules that the programs are ported to, as a user would write them."""

from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer


class Ported(LightningModule):
    """A network, a loss and an optimizer.

    Args:
        network: what is trained.
        loss: of outputs and targets.
        optimizer: called with the parameters.
    """

    def __init__(self, network: nn.Module, loss: nn.Module, optimizer: Callable[[Iterable[Any]], Optimizer]) -> None:
        super().__init__()
        self.network = network
        self.loss = loss
        self._optimizer = optimizer

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.network(inputs)
        return outputs

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        inputs, targets = batch
        loss: Tensor = self.loss(self(inputs), targets)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Optimizer:
        return self._optimizer(self.parameters())


class GradientsKept(Ported):
    """Optimises by hand and never clears the gradients."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.automatic_optimization = False

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss)
        self.optimizers().step()  # type: ignore[union-attr]
        return loss


class GradientsCleared(GradientsKept):
    """Optimises by hand and clears the gradients."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.optimizers().zero_grad()  # type: ignore[union-attr]
        return super().training_step(batch, batch_idx)


class OptimizerMadeBefore(Ported):
    """Makes the optimizer of a network that is then replaced by another with parameters of its own."""

    def configure_optimizers(self) -> Optimizer:
        optimizer = self._optimizer(self.network.parameters())
        self.network = deepcopy(self.network)
        return optimizer


class AllFrozenButNormalization(Ported):
    """Freezes all parameters but those of batch normalisation, the head's included."""

    def __init__(self, network: nn.Module, *arguments: Any) -> None:
        super().__init__(network, *arguments)
        for module in network.modules():
            if not isinstance(module, nn.modules.batchnorm._BatchNorm):
                for parameter in module.parameters(recurse=False):
                    parameter.requires_grad = False

    def configure_optimizers(self) -> Optimizer:
        return self._optimizer([each for each in self.parameters() if each.requires_grad])
