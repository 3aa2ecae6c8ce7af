"""What became of the steps of one optimizer: how many were clipped, how many were not finite."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_gradtools.gradients.clipping import RATE_WINDOW
from lightning_gradtools.gradients.packing import Packing


@dataclass(frozen=True)
class Clipped:
    """How gradients were clipped: the smallest factor [], and the limit [] on the norm if it moves."""

    coefficient: Tensor
    limit: Tensor | None = None


@dataclass
class ClippingTally:
    """Counts, on the host up to the last reading and on the device since.

    Attributes:
        skipped_steps: steps that were not finite.
        consecutive_skips: the latest of them in a row.
        last_good_step: ``global_step`` of the latest finite one.
        coefficient: smallest factor on any gradient of the latest step.
        limit: limit on the norm of the latest step, where it is not fixed.
        clipped: whether each of the latest steps was clipped.
        coefficients: the factors not read yet, one [] a step. Older ones than these are in no rate.
        latest_limit: the limit not read yet.
        verdicts: not read yet: ``global_step`` and whether it was not finite [].
    """

    skipped_steps: int = 0
    consecutive_skips: int = 0
    last_good_step: int | None = None
    coefficient: float | None = None
    limit: float | None = None
    clipped: deque[bool] = field(default_factory=lambda: deque(maxlen=RATE_WINDOW))
    coefficients: deque[Tensor] = field(default_factory=lambda: deque(maxlen=RATE_WINDOW))
    latest_limit: Tensor | None = None
    verdicts: list[tuple[int, Tensor]] = field(default_factory=list)

    def take(self, groups: list[Clipped]) -> None:
        """Note how a step was clipped, group by group."""
        if not groups:
            return
        coefficient = groups[0].coefficient
        for group in groups[1:]:
            coefficient = torch.minimum(coefficient, group.coefficient.to(coefficient.device))
        self.coefficients.append(coefficient)
        self.latest_limit = groups[0].limit

    @property
    def is_full(self) -> bool:
        """True when so many verdicts are on the device that they should be read though nothing is logged."""
        return len(self.verdicts) >= RATE_WINDOW

    def took(self, global_step: int) -> None:
        """Count a good step."""
        self.consecutive_skips = 0
        self.last_good_step = global_step

    def missed(self) -> None:
        """Count a step that was not finite."""
        self.skipped_steps += 1
        self.consecutive_skips += 1

    def read(self) -> None:
        """Bring to the host, in one transfer, which steps were finite and how they were clipped, and count them."""
        packing = Packing[str]()
        if self.verdicts:
            packing.put("verdicts", torch.stack([verdict for _, verdict in self.verdicts]).float())
        if self.coefficients:
            packing.put("coefficients", torch.stack(list(self.coefficients)))
        if self.latest_limit is not None:
            packing.put("limit", self.latest_limit)
        found = packing.to_host()
        for (step, _), bad in zip(self.verdicts, found.get("verdicts", ()), strict=True):
            if bad:
                self.missed()
            else:
                self.took(step)
        if self.coefficients:
            self.clipped.extend(coefficient < 1 for coefficient in found["coefficients"])
            self.coefficient = found["coefficients"][-1]
        if self.latest_limit is not None:
            (self.limit,) = found["limit"]
        self.verdicts.clear()
        self.coefficients.clear()
        self.latest_limit = None

    def scalars(self) -> dict[str, float]:
        """Return what is logged of the steps so far."""
        self.read()
        scalars: dict[str, float] = {"skipped_steps": self.skipped_steps}
        if self.coefficient is not None:
            scalars["coefficient"] = self.coefficient
            scalars["rate"] = sum(self.clipped) / max(1, len(self.clipped))
        if self.limit is not None:
            scalars["threshold"] = self.limit
        return scalars

    def last_good(self) -> str:
        """Say which step was the last good one."""
        if self.last_good_step is None:
            return "no step before it was good"
        return f"the last good one was global step {self.last_good_step}"

    def state_dict(self) -> dict[str, Any]:
        """Return the counts as plain types."""
        self.read()
        return {
            "skipped_steps": self.skipped_steps,
            "consecutive_skips": self.consecutive_skips,
            "last_good_step": self.last_good_step,
            "coefficient": self.coefficient,
            "limit": self.limit,
            "clipped": list(self.clipped),
        }

    @classmethod
    def load(cls, state: Mapping[str, Any]) -> "ClippingTally":
        """Return the tally that ``state_dict`` described."""
        return cls(**{**state, "clipped": deque(state["clipped"], RATE_WINDOW)})
