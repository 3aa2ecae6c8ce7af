"""The unit statistics of all activations of a network, each kind in one metric over all their units."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_gradtools.activations import DeadUnits, Saturation
from lightning_gradtools.activations.dead_units import unit_states
from lightning_gradtools.activations.step_tap import TappedActivation

Site = tuple[str, str, int, bool]  # path, function, number of units, whether it is one-sided


class UnitStatistics:
    """Keeps them over the samples of a run, on the device of the activations.

    What it is given is of all ranks together, so it is the same on each, whatever their number.

    Args:
        sites: the activations, in order.
        patience: samples in a row on which a unit must be silent to be dead.
        shards: number of ranks that share out one batch's activations (tensor parallelism). Each one's units are kept:
            of an activation that is split over them they are its units, of another each is there ``shards`` times.
    """

    def __init__(self, sites: Sequence[TappedActivation], patience: int, shards: int = 1) -> None:
        self.sites: list[Site] = [_site(each) for each in sites]
        self.shards = shards
        self.dead = DeadUnits(shards * sum(units for *_, units, fires in self.sites if fires), patience)
        self.flat = Saturation(shards * sum(units for *_, units, fires in self.sites if not fires), patience)
        self.samples = 0
        # The site of each unit that can fire, and of each that can saturate.
        owners = [(i, fires) for i, (*_, units, fires) in enumerate(self.sites) for _ in range(units)]
        self._fires = torch.tensor([i for i, fires in owners if fires] * shards, dtype=torch.long)
        self._saturates = torch.tensor([i for i, fires in owners if not fires] * shards, dtype=torch.long)
        self._split = torch.zeros(len(self.sites))  # whether the shards of a site were seen to differ
        self._sizes = torch.tensor([float(units) for *_, units, _ in self.sites])

    def fits(self, sites: Sequence[TappedActivation]) -> bool:
        """Say whether ``sites`` are the activations that this was made for."""
        return self.sites == [_site(each) for each in sites]

    def update(self, fired: Tensor, flat: Tensor, samples: Tensor, step: int) -> Tensor:
        """Add a batch; return how many of each site's one-sided units it left silent [sites].

        Args:
            fired: [shards · one-sided units] bool: whether the unit was active on any sample, of all sites in order.
            flat: [shards · two-sided units] share of each one's outputs on a flat side.
            samples: [] how many there were.
            step: the optimizer step.
        """
        self._move(fired.device)
        for values, owners, tolerance in ((fired.float(), self._fires, 0.0), (flat, self._saturates, 1e-3)):
            if self.shards > 1 and len(values):
                each = values.view(self.shards, -1)
                differ = ((each - each[0]).abs().amax(0) > tolerance).float()
                self._split.index_add_(0, owners[: each.shape[1]], differ)
        self.dead.update(fired, samples, step)
        self.flat.update(flat, samples)
        return self._per_site(~fired, self._fires)

    def _move(self, device: torch.device) -> None:
        """Bring everything to ``device``, once."""
        if self._split.device != device:
            self.dead, self.flat = self.dead.to(device), self.flat.to(device)
            self._fires, self._saturates = self._fires.to(device), self._saturates.to(device)
            self._split, self._sizes = self._split.to(device), self._sizes.to(device)

    def units(self) -> Tensor:
        """Return the number of units of each site [sites]."""
        return torch.where(self._split > 0, self._sizes * self.shards, self._sizes)

    def counts(self) -> dict[str, Tensor]:
        """Return [sites] numbers of units: dead, never fired, revived and saturated, and the step of the last death."""
        # Not `compute()`, which would bring the ranks' metrics together: these are of all ranks already.
        states = unit_states(self.dead.silent, self.dead.last_fired, self.dead.revivals, self.dead.patience)
        last = torch.full((len(self.sites),), -1.0, device=self.dead.device)
        last.scatter_reduce_(0, self._fires, states.died_at.float(), "amax")
        return {
            "dead": self._per_site(states.dead, self._fires),
            "never fired": self._per_site(states.never_fired, self._fires),
            "revived": self._per_site(states.revivals > 0, self._fires),
            "last death": last,
            "saturated": self._per_site(self.flat.shares() >= self.flat.flat, self._saturates),
        }

    def _per_site(self, units: Tensor, owners: Tensor) -> Tensor:
        """Return the sum [sites] of what is one number for each unit."""
        total = torch.zeros(len(self.sites), device=units.device)
        total.index_add_(0, owners, units.float())
        return total if self.shards == 1 else torch.where(self._split > 0, total, total / self.shards)

    def state_dict(self) -> dict[str, Any]:
        """Return it as plain types and tensors."""
        return {
            "sites": self.sites,
            "samples": self.samples,
            "dead": self.dead.state_dict(),
            "flat": self.flat.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the statistics that gave ``state`` stopped, if they are of the same activations and shards."""
        sizes = len(state["dead"]["silent"]), len(state["flat"]["average"])
        if [tuple(site) for site in state["sites"]] == self.sites and sizes == (self.dead.units, self.flat.units):
            self.samples = state["samples"]
            self.dead.load_state_dict(state["dead"])
            self.flat.load_state_dict(state["flat"])


def units_of(site: TappedActivation) -> int:
    """Return the number of units of ``site``."""
    measured = site.fired if site.fired is not None else site.flat
    return 0 if measured is None else len(measured)


def _site(site: TappedActivation) -> Site:
    return site.name, site.function, units_of(site), site.fired is not None
