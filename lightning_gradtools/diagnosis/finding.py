"""What a diagnosis says: which pathology, in which layer, on what evidence, and what to do about it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any, NamedTuple

from lightning_gradtools.diagnosis.state import from_state


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
    OUTPUT_MISMATCH = "output_mismatch"
    LOSS_MISMATCH = "loss_mismatch"
    UNSCALED_DATA = "unscaled_data"
    REPEATED_BATCH = "repeated_batch"
    GRADIENTS_NOT_CLEARED = "gradients_not_cleared"
    EVALUATION_MODE = "evaluation_mode"
    NOT_OPTIMIZED = "not_optimized"
    REPLICAS_OUT_OF_STEP = "replicas_out_of_step"
    LOST_UPDATES = "lost_updates"
    SCHEDULE_INTERVAL = "schedule_interval"
    LEARNING_RATE_TOO_HIGH = "learning_rate_too_high"
    LEARNING_RATE_TOO_LOW = "learning_rate_too_low"
    ATTENTION_COLLAPSE = "attention_collapse"
    EXPERT_IMBALANCE = "expert_imbalance"
    LOSS_SPIKE = "loss_spike"
    LOGIT_DRIFT = "logit_drift"

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


class Change(str, Enum):
    """What a remedy changes in a run, for an application that knows how to change it."""

    LOWER_LEARNING_RATE = "lower_learning_rate"
    RAISE_LEARNING_RATE = "raise_learning_rate"
    SEARCH_LEARNING_RATE = "search_learning_rate"
    WARM_UP = "warm_up"
    DECAY_LEARNING_RATE = "decay_learning_rate"
    SCHEDULE_OVER_RUN = "schedule_over_run"
    CLIP_NORM = "clip_norm"
    RAISE_MAX_NORM = "raise_max_norm"
    SKIP_NONFINITE = "skip_nonfinite"
    USE_RELU = "use_relu"
    USE_LEAKY_RELU = "use_leaky_relu"
    HE_INIT = "he_init"
    XAVIER_INIT = "xavier_init"
    ADD_RESIDUAL = "add_residual"
    NORMALISE = "normalise"
    LESS_DEPTH = "less_depth"
    LESS_WEIGHT_DECAY = "less_weight_decay"
    RAISE_EPS = "raise_eps"
    OVERFIT_ONE_BATCH = "overfit_one_batch"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Remedy:
    """One thing to try.

    Attributes:
        sentence: what and why, in plain words.
        overrides: how an application's command line does it; a diagnosis leaves it empty.
        code: a line of Python that does it, or "".
        change: what it changes, or None where only a person can.
        value: what that becomes, such as the new learning rate, or None where it is no number.
    """

    sentence: str
    overrides: tuple[str, ...] = ()
    code: str = ""
    change: Change | None = None
    value: float | None = None

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "Remedy":
        """Return the remedy of a dictionary as in :meth:`Finding.as_dict`, also of another version's."""
        change = state.get("change")
        overrides = tuple(state.get("overrides", ()))
        return from_state(cls, {**state, "overrides": overrides, "change": change and Change(change)})


class Cause(NamedTuple):
    """The finding that another follows from: its kind and its layer."""

    kind: Kind
    layer: str


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
        cause: the finding that this one follows from, so that it needs no remedy of its own; None for a root.
    """

    kind: Kind
    layer: str
    step: int
    severity: Severity
    evidence: tuple[Evidence, ...]
    message: str
    remedy: tuple[Remedy, ...] = ()
    resolved_at: int | None = None
    cause: Cause | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain dictionaries, tuples, strings and numbers."""
        remedy = tuple({**asdict(each), "change": each.change and str(each.change)} for each in self.remedy)
        cause = self.cause and (str(self.cause.kind), self.cause.layer)
        return {
            **asdict(self),
            "kind": str(self.kind),
            "severity": str(self.severity),
            "remedy": remedy,
            "cause": cause,
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "Finding":
        """Return the finding that :meth:`as_dict` was called on, also of another version."""
        cause = state.get("cause")
        return from_state(
            cls,
            {
                **state,
                "kind": Kind(state["kind"]),
                "severity": Severity(state["severity"]),
                "evidence": tuple(from_state(Evidence, each) for each in state["evidence"]),
                "remedy": tuple(Remedy.from_dict(each) for each in state.get("remedy", ())),
                "cause": cause and Cause(Kind(cause[0]), cause[1]),
            },
        )
