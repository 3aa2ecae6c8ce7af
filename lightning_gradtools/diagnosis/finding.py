"""What a diagnosis says: which pathology, in which layer, on what evidence, and what to do about it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any


class Kind(str, Enum):
    """A pathology of training, by the field's name for it."""

    VANISHING_GRADIENT = "vanishing_gradient"
    EXPLODING_GRADIENT = "exploding_gradient"
    DEAD_RELU = "dead_relu"
    SATURATED_ACTIVATION = "saturated_activation"
    NONFINITE = "nonfinite"
    NO_GRADIENT = "no_gradient"
    OSCILLATING_LOSS = "oscillating_loss"
    STALLED_TRAINING = "stalled_training"
    POOR_INITIALIZATION = "poor_initialization"

    def __str__(self) -> str:
        return self.value


class Severity(str, Enum):
    """How bad it is; ``info < warning < critical``."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"

    def __str__(self) -> str:
        return self.value

    @property
    def rank(self) -> int:
        """0, 1 or 2."""
        return _RANKS[self]

    def __lt__(self, other: str) -> bool:
        return self.rank < _RANKS[other]

    def __le__(self, other: str) -> bool:
        return self.rank <= _RANKS[other]

    def __gt__(self, other: str) -> bool:
        return self.rank > _RANKS[other]

    def __ge__(self, other: str) -> bool:
        return self.rank >= _RANKS[other]


# A member is a string, and its hash is that of the string.
_RANKS: Mapping[str, int] = {severity: rank for rank, severity in enumerate(Severity)}


@dataclass(frozen=True)
class Evidence:
    """One number that speaks for a finding.

    Attributes:
        quantity: what was measured, with its unit.
        value: the number.
        threshold: what it crossed.
        steps: for how many optimizer steps it has been across.
    """

    quantity: str
    value: float
    threshold: float
    steps: int = 0


@dataclass(frozen=True)
class Remedy:
    """One thing to try.

    Attributes:
        sentence: what and why, in plain words.
        overrides: Hydra overrides of ``gradtools-train`` that do it, if there are any.
        code: a line of Python that does it, or "".
    """

    sentence: str
    overrides: tuple[str, ...] = ()
    code: str = ""


@dataclass(frozen=True)
class Finding:
    """A pathology that was found.

    Attributes:
        kind: which pathology.
        layer: the module's path as in ``named_modules()``; "" for the whole model.
        step: the optimizer step at which it reached its ``severity``.
        severity: how bad it is.
        evidence: the numbers, with the thresholds that they crossed and for how long.
        message: what is wrong, in one sentence.
        remedy: what to try, the best first.
        resolved_at: the step at which the evidence had gone, or None while it stands.
    """

    kind: Kind
    layer: str
    step: int
    severity: Severity
    evidence: tuple[Evidence, ...]
    message: str
    remedy: tuple[Remedy, ...] = ()
    resolved_at: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain dictionaries, lists, strings and numbers."""
        found = asdict(self)
        return {**found, "kind": str(self.kind), "severity": str(self.severity)}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> "Finding":
        """Return the finding that :meth:`as_dict` was called on."""
        return cls(
            Kind(found["kind"]),
            found["layer"],
            found["step"],
            Severity(found["severity"]),
            tuple(Evidence(**each) for each in found["evidence"]),
            found["message"],
            tuple(Remedy(each["sentence"], tuple(each["overrides"]), each["code"]) for each in found["remedy"]),
            found["resolved_at"],
        )
