"""Dead units: those that no sample has made fire for a long time."""

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_gradtools.arguments import integer

PATIENCE = 300


class UnitStates(NamedTuple):
    """What is known of each unit.

    Attributes:
        dead: [units] bool: silent on at least ``patience`` samples in a row, up to now.
        never_fired: [units] bool: dead, and never seen to fire.
        died_at: [units] the last step at which a unit that is dead now was seen to fire; -1 for the others.
        revivals: [units] how often it fired again after it had been dead.
    """

    dead: Tensor
    never_fired: Tensor
    died_at: Tensor
    revivals: Tensor


def unit_states(silent: Tensor, last_fired: Tensor, revivals: Tensor, patience: int) -> UnitStates:
    """Return the state of each unit from its counts.

    Args:
        silent: [units] samples since it last fired.
        last_fired: [units] the last step at which it did; -1 if it never did.
        revivals: [units] how often it fired after it had been dead.
        patience: samples in a row on which a unit must be silent to be dead.
    """
    dead = silent >= patience
    return UnitStates(dead, dead & (last_fired < 0), torch.where(dead, last_fired, -1), revivals)


class DeadUnits(Metric):
    r"""Counts for each unit the samples since it last fired, over many batches and all ranks.

    A unit is dead if it was silent on ``patience`` samples in a row. A unit that fires on a share :math:`p` of the data
    is silent on :math:`n` independent samples with probability :math:`(1 - p)^n`: after 300, one with
    :math:`p \ge 1\%` is called dead with probability under 5% (the "rule of three": Hanley & Lippman-Hand 1983,
    JAMA 249:1743). One batch cannot tell: sparse activations are healthy.

    Over ranks, a unit has been silent for the smallest count of any rank times the number of ranks.

    Args:
        units: number of units: features, or channels of a convolution, of one layer or of several in a row.
        patience: number of samples.
    """

    full_state_update = False
    silent: Tensor
    last_fired: Tensor
    revivals: Tensor

    def __init__(self, units: int, patience: int = PATIENCE) -> None:
        super().__init__(compute_with_cache=False)
        self.units = integer("units", units, at_least=0)
        self.patience = integer("patience", patience, at_least=1)
        self.add_state("silent", torch.zeros(units, dtype=torch.long), dist_reduce_fx=_least_times_ranks)
        self.add_state("last_fired", torch.full((units,), -1), dist_reduce_fx="max")
        self.add_state("revivals", torch.zeros(units, dtype=torch.long), dist_reduce_fx="max")
        self.persistent(True)

    def update(self, fired: Tensor, samples: int | Tensor, step: int) -> None:
        """Add one batch.

        Args:
            fired: [units] bool: whether the unit was active on any of the samples, at any position.
            samples: number of samples in the batch, or [] of them.
            step: the optimizer step.
        """
        self.revivals += fired & (self.silent >= self.patience)
        self.silent = torch.where(fired, 0, self.silent + samples)
        self.last_fired = torch.where(fired, step, self.last_fired)

    def compute(self) -> UnitStates:
        """Return the state of each unit."""
        return unit_states(self.silent, self.last_fired, self.revivals, self.patience)


def _least_times_ranks(silent: Tensor) -> Tensor:
    return silent.amin(0) * silent.shape[0]
