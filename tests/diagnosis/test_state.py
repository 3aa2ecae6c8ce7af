from dataclasses import dataclass

import pytest

from lightning_gradtools.diagnosis.state import from_state


@dataclass(frozen=True)
class Pair:
    first: int
    second: int = 2


def test_unknown_entries_are_left_out_and_lacking_ones_take_their_defaults():
    assert from_state(Pair, {"first": 1, "third": 3}) == Pair(first=1, second=2)
    assert from_state(Pair, {"first": 1, "second": 5}) == Pair(first=1, second=5)


def test_what_has_no_default_must_be_there():
    with pytest.raises(TypeError, match="first"):
        from_state(Pair, {"second": 1})


def test_only_dataclasses_have_fields():
    with pytest.raises(TypeError, match="must be a dataclass"):
        from_state(dict, {})
