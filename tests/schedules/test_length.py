import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.schedules import check_length, steps_in


@pytest.mark.parametrize(
    ("length", "steps"),
    [
        (0, 0),
        (7, 7),
        (0.0, 0),
        (0.05, 50),
        (1.0, 1000),
        ("1 epoch", 40),
        ("2 epochs", 80),
        (" 0.5epochs", 20),
    ],
)
def test_a_length_in_steps(length, steps):
    assert steps_in("warmup_steps", length, whole_steps=1000, epoch_steps=40) == steps


@pytest.mark.parametrize("length", [-1, 1.5, -0.1, float("nan"), "5%", "2", "-1 epochs", True, None])
def test_what_is_no_length_is_refused_by_name(length):
    with pytest.raises(ArgumentError, match=r"^warmup_steps=.*: "):
        check_length("warmup_steps", length)


def test_a_length_relative_to_the_unknown_is_refused():
    with pytest.raises(ArgumentError, match=r"^total_steps=0\.5: .*no known end"):
        steps_in("total_steps", 0.5, whole_steps=None, epoch_steps=40)
    with pytest.raises(ArgumentError, match=r"^total_steps='2 epochs': .*no known length"):
        steps_in("total_steps", "2 epochs", whole_steps=1000, epoch_steps=None)
    assert steps_in("total_steps", "2 epochs", whole_steps=None, epoch_steps=40) == 80


@given(st.floats(0, 1), st.integers(1, 10**6))
def test_a_fraction_never_exceeds_the_run(fraction, run):
    steps = steps_in("warmup_steps", fraction, whole_steps=run, epoch_steps=None)
    assert 0 <= steps <= run
    assert abs(steps - fraction * run) <= 0.5
