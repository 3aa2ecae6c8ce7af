"""What a check is, what it finds, and the row it becomes."""

import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path


class Result(str, Enum):
    """How a row ended."""

    OK = "ok"
    FAILED = "failed"
    NEEDS_CUDA = "needs a CUDA device"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """On what and how all checks of a run are made.

    Attributes:
        device: "cuda" or "cpu".
        small: whether the networks are tiny, so that the same code runs anywhere in seconds.
        rounds: turns of each run whose time is taken; 3 or more.
        batch_size: sequences a batch of GPT-2.
        context_length: tokens a sequence.
        folder: for what a run writes.
    """

    device: str
    small: bool
    rounds: int
    batch_size: int
    context_length: int
    folder: Path


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a check found.

    Attributes:
        measured: in words.
        ok: whether it is what was expected.
        figures: the same as numbers.
    """

    measured: str
    ok: bool
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing to be shown.

    Attributes:
        name: of the row.
        expected: in words.
        measure: does it.
        needs_cuda: whether it says nothing on a CPU; else it is made there too, and shows that the check itself works.
    """

    name: str
    expected: str
    measure: Callable[[Setting], Outcome]
    needs_cuda: bool = False


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table; ``device`` is where it was measured, "" if it was not."""

    name: str
    device: str
    measured: str
    expected: str
    result: Result
    figures: Mapping[str, float] = field(default_factory=dict)


def run(check: Check, setting: Setting) -> Row:
    """Make one check. What it raises is a failed row: the others are made all the same."""
    if check.needs_cuda and setting.device != "cuda":
        return Row(name=check.name, device="", measured="", expected=check.expected, result=Result.NEEDS_CUDA)
    try:
        outcome = check.measure(setting)
    except Exception as error:
        what = str(error).strip().split("\n")[0]
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(place.filename)}:{place.lineno}"
        outcome = Outcome(measured=f"{type(error).__name__}: {what} ({where})", ok=False)
    return Row(
        name=check.name,
        device=setting.device,
        measured=outcome.measured,
        expected=check.expected,
        result=Result.OK if outcome.ok else Result.FAILED,
        figures=outcome.figures,
    )


def exit_status(rows: Sequence[Row]) -> int:
    """Return 1 if a row failed, else 2 if one needs a device that is not here, else 0."""
    results = {row.result for row in rows}
    return 1 if Result.FAILED in results else 2 if Result.NEEDS_CUDA in results else 0
