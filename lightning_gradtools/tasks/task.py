"""What the Lightning modules share: a network, its optimizer, its sharding."""

from functools import partial
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.tasks.weight_decay import OptimizerFactory, weight_decay_groups

ADAMW: OptimizerFactory = partial(AdamW, lr=1e-3)


class Task(LightningModule):
    """A network trained by one optimizer. The subclass gives the loss and the metrics.

    A learning rate schedule is a callback's business, so `configure_optimizers` returns the optimizer alone.

    Args:
        net: the network.
        optimizer: called with the parameters, returns the optimizer: ``functools.partial(torch.optim.SGD,
            lr=0.1)``, or in Hydra an optimizer's ``_target_`` with ``_partial_: true``.

    Raises:
        ArgumentError: if ``optimizer`` cannot be called.
    """

    def __init__(self, net: nn.Module, optimizer: OptimizerFactory = ADAMW) -> None:
        super().__init__()
        if not callable(optimizer):
            raise ArgumentError(
                f"optimizer={type(optimizer).__name__}: must be a function from parameters to an optimizer, "
                "such as functools.partial(torch.optim.SGD, lr=0.1); in Hydra, set _partial_: true"
            )
        self.net = net
        self.optimizer = optimizer

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the network's output."""
        y: Tensor = self.net(inputs)
        return y

    def configure_model(self) -> None:
        """Under Lightning's `ModelParallelStrategy`, shard each repeated layer and then the rest (FSDP2)."""
        if self.device_mesh is None:
            return
        from torch.distributed.fsdp import FSDPModule, fully_shard  # absent from builds without distributed

        if isinstance(self.net, FSDPModule):  # a second fit or test of the same module
            return
        mesh = self.device_mesh["data_parallel"]
        for container in list(self.net.modules()):
            if isinstance(container, nn.ModuleList):
                for layer in container:
                    fully_shard(layer, mesh=mesh)
        fully_shard(self.net, mesh=mesh)

    def configure_optimizers(self) -> Optimizer:
        """Return the optimizer; see `weight_decay_groups` for what it decays."""
        return self.optimizer(weight_decay_groups(self, self.optimizer))

    def setup(self, stage: str) -> None:  # noqa: ARG002
        """Check the network against the data, where both say what they need and give."""
        shape = self._data("input_shape")
        check = getattr(self.net, "check_input", None)
        if shape is not None and check is not None:
            check(shape)

    def _data(self, name: str) -> Any:
        """Return an attribute of the data module, None if there is neither."""
        return getattr(getattr(self.trainer, "datamodule", None), name, None)

    def _log_train_loss(self, loss: Tensor, batch_size: int) -> None:
        # This rank's own loss: a mean over ranks would cost a collective every step.
        self.log("train/loss", loss, prog_bar=True, batch_size=batch_size)
