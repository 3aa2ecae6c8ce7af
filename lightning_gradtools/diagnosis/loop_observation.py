"""What is known of the training loop itself: what was left over, left out, switched off or lost around one step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_gradtools.diagnosis.state import from_state


@dataclass(frozen=True)
class LoopObservation:
    """What the training loop did with gradients, weights and modes around one sampled step; the same on every rank.

    Attributes:
        uncleared: parameters whose gradient the first backward pass after their optimizer's step found as that step had
            left it; None where no step and the one after it were both seen.
        left_over: norm of these gradients.
        evaluating: paths of the outermost modules in evaluation mode, though what they hold is trained and depends on
            the mode.
        unoptimized: parameters that got a gradient and are in no optimizer.
        unoptimized_share: their number of elements over that of all parameters with a gradient.
        unoptimized_norm: norm of their gradients.
        apart: parameters that are not the same on all ranks though they are to be.
        spread: the largest difference between ranks of such a parameter's norm or sum, over its norm.
        lost: share of the elements of low-precision weights with a gradient that the step left as they were, at least;
            None where none are.
        precision: the precision of these weights, such as ``bfloat16``.
    """

    uncleared: tuple[str, ...] | None = None
    left_over: float = 0.0
    evaluating: tuple[str, ...] = ()
    unoptimized: tuple[str, ...] = ()
    unoptimized_share: float = 0.0
    unoptimized_norm: float = 0.0
    apart: tuple[str, ...] = ()
    spread: float = 0.0
    lost: float | None = None
    precision: str = ""

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "LoopObservation":
        """Return the observation of a dictionary of its fields, in which tuples may have become lists."""
        made = {name: tuple(value) for name, value in state.items() if isinstance(value, list)}
        return from_state(cls, {**state, **made})


@dataclass(frozen=True)
class ScheduleObservation:
    """How long a learning-rate schedule is, and how long the run for which it was made.

    Attributes:
        name: of its class.
        interval: ``step`` or ``epoch``: when it is stepped.
        lengths: what may be the number of times it is to be stepped in all; the numbers that a user's function holds.
        steps: optimizer steps of the run.
        batches: batches of the run.
        epochs: epochs of the run.
        epoch_steps: optimizer steps of an epoch.
    """

    name: str
    interval: str
    lengths: tuple[int, ...]
    steps: int
    batches: int
    epochs: int
    epoch_steps: int

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "ScheduleObservation":
        """Return the observation of a dictionary of its fields."""
        return from_state(cls, {**state, "lengths": tuple(state["lengths"])})
