"""Saturated units: those whose outputs lie on a flat side of the activation, batch after batch."""

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_gradtools.arguments import integer, number


class Saturation(Metric):
    r"""Running share of each unit's outputs on a flat side, over batches and ranks.

    An exponential average over samples with the time constant ``memory``: a batch of :math:`n` samples moves it by
    :math:`1 - e^{-n / \mathrm{memory}}`. Its start at zero is corrected as in Adam (Kingma & Ba 2015,
    arXiv:1412.6980, section 3). Ranks are averaged.

    Args:
        units: number of units, of one layer or of several in a row.
        memory: number of samples.
        flat: the share from which a unit counts as saturated.
    """

    full_state_update = False
    average: Tensor
    weight: Tensor

    def __init__(self, units: int, memory: int = 300, flat: float = 0.9) -> None:
        super().__init__(compute_with_cache=False)
        self.units = integer("units", units, at_least=0)
        self.memory = integer("memory", memory, at_least=1)
        self.flat = number("flat", flat, above=0, at_most=1)
        self.add_state("average", torch.zeros(units), dist_reduce_fx="mean")
        self.add_state("weight", torch.zeros(()), dist_reduce_fx="mean")
        self.persistent(True)

    def update(self, share: Tensor, samples: int | Tensor) -> None:
        """Add the share [units] of flat outputs in one batch of ``samples``, a number or []."""
        fraction = -torch.expm1(-torch.as_tensor(samples) / self.memory)
        self.average = torch.lerp(self.average, share.to(self.average), fraction.to(self.average))
        self.weight = torch.lerp(self.weight, torch.ones_like(self.weight), fraction.to(self.weight))

    def shares(self) -> Tensor:
        """Return the corrected average [units] of this rank."""
        return corrected(self.average, self.weight)

    def compute(self) -> Tensor:
        """Return [units] bool: whether the unit is saturated."""
        return self.shares() >= self.flat


def corrected(average: Tensor, weight: Tensor) -> Tensor:
    """Return an exponential average [units] without the bias of its start at zero.

    Args:
        average: [units] the average so far.
        weight: [] that of ones.
    """
    return average / weight.clamp(min=1e-12)
