"""The norm of every micro-batch's own gradient, before it is added up or averaged over ranks."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lightning_gradtools._lightning.fail_safe import FailSafe
from lightning_gradtools.gradients.norms import tensor_norms


class MicroBatchNorms:
    """Squared norms of the gradients of the micro-batches of one optimizer step, on this rank.

    A hook on a parameter is given the gradient that this backward pass found, before it is accumulated and
    before DDP averages it, and leaves it as it is. Watching costs some microseconds a parameter and no
    memory, so it is done only on the steps that are logged. What else is differentiated (a gradient penalty inside
    the loss) calls the hooks too, and is told apart by its time.

    Args:
        parameters: to watch.
        guard: for the hooks.

    Attributes:
        squared: [] of each micro-batch.
        sizes: samples of each micro-batch.
    """

    def __init__(self, parameters: Iterable[Tensor], guard: FailSafe) -> None:
        self.squared: list[Tensor] = []
        self.sizes: list[int] = []
        self._parts: list[Tensor] = []
        self._in_backward = False
        look = guard.wrap(self._look)
        self._handles = [parameter.register_hook(look) for parameter in parameters if parameter.requires_grad]

    def _look(self, gradient: Tensor) -> None:
        if self._in_backward:
            self._parts.append(tensor_norms([gradient])[0])

    def start_backward(self) -> None:
        """Begin the backward pass of the loss."""
        self._in_backward = True

    def end_backward(self, scale: Tensor | None) -> None:
        """Close a micro-batch, whose loss had been multiplied by ``scale``."""
        self._in_backward = False
        if not self._parts:
            return
        device = self._parts[0].device
        squared = torch.stack([part.to(device) for part in self._parts]).square().sum()
        self.squared.append(squared if scale is None else squared / scale.to(device).square())
        self._parts.clear()

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
