"""The norm of every micro-batch's own gradient, before it is added up or averaged over ranks."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lightning_gradtools.gradients.norms import tensor_norms


class MicroBatchNorms:
    """Squared norms of the gradients of the micro-batches of one optimizer step, on this rank.

    A hook on a parameter is given the gradient that this backward pass found, before it is accumulated and
    before DDP averages it, and leaves it as it is. Watching costs some microseconds a parameter and no
    memory, so it is done only on the steps that are logged.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.squared: list[Tensor] = []
        self.sizes: list[int] = []
        self._parts: list[Tensor] = []
        self._handles = [parameter.register_hook(self._look) for parameter in parameters if parameter.requires_grad]

    def _look(self, gradient: Tensor) -> None:
        self._parts.append(tensor_norms([gradient])[0])

    def end_backward(self, scale: Tensor | None) -> None:
        """Close a micro-batch, whose loss had been multiplied by ``scale``."""
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
