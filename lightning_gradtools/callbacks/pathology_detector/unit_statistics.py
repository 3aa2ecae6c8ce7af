"""The unit statistics of all activations of a network, each kind in one metric over all their units."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_gradtools.activations import DeadUnits, Saturation
from lightning_gradtools.activations.dead_units import unit_states
from lightning_gradtools.activations.saturation import corrected
from lightning_gradtools.activations.step_tap import TappedActivation

Site = tuple[str, str, int, bool]  # path, function, number of units, whether it is one-sided


class UnitStatistics:
    """Keeps them over the samples of a run, on the device of the activations.

    Args:
        sites: the activations, in order.
        patience: samples in a row on which a unit must be silent to be dead.
    """

    def __init__(self, sites: Sequence[TappedActivation], patience: int) -> None:
        self.sites: list[Site] = [_site(each) for each in sites]
        self.dead = DeadUnits(sum(units for *_, units, fires in self.sites if fires), patience)
        self.flat = Saturation(sum(units for *_, units, fires in self.sites if not fires), patience)
        self.samples = 0
        # The site of each unit that can fire, and of each that can saturate.
        owners = [(i, fires) for i, (*_, units, fires) in enumerate(self.sites) for _ in range(units)]
        self._fires = torch.tensor([i for i, fires in owners if fires], dtype=torch.long)
        self._saturates = torch.tensor([i for i, fires in owners if not fires], dtype=torch.long)

    def fits(self, sites: Sequence[TappedActivation]) -> bool:
        """Say whether ``sites`` are the activations that this was made for."""
        return self.sites == [_site(each) for each in sites]

    def update(self, sites: Sequence[TappedActivation], samples: int, step: int) -> Tensor:
        """Add a batch; return how many of each site's one-sided units it left silent [sites]."""
        fired = [site.fired for site in sites if site.fired is not None]
        flat = [site.flat for site in sites if site.flat is not None]
        device = (fired + flat)[0].device
        if self.dead.device != device:
            self.dead, self.flat = self.dead.to(device), self.flat.to(device)
        self.dead.update(torch.cat([*fired, torch.zeros(0, dtype=torch.bool, device=device)]), samples, step)
        self.flat.update(torch.cat([*flat, torch.zeros(0, device=device)]), samples)
        self.samples += samples
        if not fired:
            return torch.zeros(len(sites), device=device)
        return self._per_site(~torch.cat(fired), self._fires)

    def largest(self) -> Tensor:
        """Return what is to be reduced over ranks by its maximum [3 · one-sided units]."""
        return torch.cat([-self.dead.silent, self.dead.last_fired, self.dead.revivals])

    def averages(self) -> Tensor:
        """Return what is to be averaged over ranks [two-sided units + 1]."""
        return torch.cat([self.flat.average, self.flat.weight.reshape(1)])

    def counts(self, largest: Tensor, averages: Tensor, ranks: int) -> dict[str, Tensor]:
        """Return [sites] numbers of units: dead, never fired, revived and saturated, and the step of the last death.

        Args:
            largest: :meth:`largest`, reduced.
            averages: :meth:`averages`, reduced.
            ranks: over how many ranks. A unit has been silent for the smallest count of any, times their number.
        """
        silent, last_fired, revivals = largest.long().chunk(3)
        states = unit_states(-silent * ranks, last_fired, revivals, self.dead.patience)
        saturated = corrected(averages[:-1], averages[-1]) >= self.flat.flat
        last = torch.full((len(self.sites),), -1.0, device=largest.device)
        last.scatter_reduce_(0, self._fires.to(last.device), states.died_at.float(), "amax")
        return {
            "dead": self._per_site(states.dead, self._fires),
            "never fired": self._per_site(states.never_fired, self._fires),
            "revived": self._per_site(states.revivals > 0, self._fires),
            "last death": last,
            "saturated": self._per_site(saturated, self._saturates),
        }

    def _per_site(self, units: Tensor, owners: Tensor) -> Tensor:
        """Return the sum [sites] of what is one number for each unit."""
        total = torch.zeros(len(self.sites), device=units.device)
        return total.index_add_(0, owners.to(units.device), units.float())

    def state_dict(self) -> dict[str, Any]:
        """Return it as plain types and tensors."""
        return {
            "sites": self.sites,
            "samples": self.samples,
            "dead": self.dead.state_dict(),
            "flat": self.flat.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the statistics that gave ``state`` stopped, if they are of the same activations."""
        if [tuple(site) for site in state["sites"]] == self.sites:
            self.samples = state["samples"]
            self.dead.load_state_dict(state["dead"])
            self.flat.load_state_dict(state["flat"])


def units_of(site: TappedActivation) -> int:
    """Return the number of units of ``site``."""
    measured = site.fired if site.fired is not None else site.flat
    return 0 if measured is None else len(measured)


def _site(site: TappedActivation) -> Site:
    return site.name, site.function, units_of(site), site.fired is not None
