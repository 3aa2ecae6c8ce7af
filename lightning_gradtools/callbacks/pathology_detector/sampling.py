"""Which steps the detector looks at."""

from collections.abc import Mapping

from lightning_gradtools.diagnosis.observation import Observation

_EARLY = (0, 1, 2, 4, 8, 12, 16)  # steps sampled besides the regular ones: most faults are there from the start
_BURST = 16  # samples taken in a row, every other step, to tell dead units from sparse ones


class SamplingSchedule:
    """Says whether a step is to be sampled, from what all ranks know, so that all sample the same.

    Every ``every_n_steps``, twice as many from step ``10 * every_n_steps`` on, when most of what goes wrong has gone
    wrong; a few of the first steps; and every other step for a while where a layer may have died, because one batch
    cannot tell dead units from sparse ones.

    Args:
        every_n_steps: optimizer steps between two samples.
    """

    def __init__(self, every_n_steps: int) -> None:
        self._every = every_n_steps
        self._burst = 0
        self._next_burst = 0

    def due(self, step: int) -> bool:
        """Say whether ``step`` is to be sampled."""
        interval = self._every * (1 if step < 10 * self._every else 2)
        return step % interval == 0 or step in _EARLY or (self._burst > 0 and step % 2 == 0)

    def state_dict(self) -> dict[str, int]:
        """Return how far it is in looking closer."""
        return {"burst": self._burst, "next_burst": self._next_burst}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where the schedule that gave ``state`` was."""
        self._burst, self._next_burst = state["burst"], state["next_burst"]

    def feed(self, observation: Observation) -> None:
        """Take what a sample showed into account."""
        if self._burst > 0:
            self._burst -= 1
            return
        doubtful = any(2 * each.silent > each.units and 2 * each.dead <= each.units for each in observation.activations)
        if doubtful and observation.step >= self._next_burst:
            self._burst = _BURST
            self._next_burst = 2 * observation.step + 10 * self._every
