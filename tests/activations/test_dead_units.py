import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_gradtools.activations import DeadUnits
from lightning_gradtools.arguments import ArgumentError


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.lists(st.booleans(), min_size=4, max_size=4), st.integers(1, 5)), max_size=30))
def test_states_are_those_of_a_plain_count(batches):
    metric = DeadUnits(4, patience=6)
    silent, last, revived = [0] * 4, [-1] * 4, [0] * 4
    for step, (fired, samples) in enumerate(batches):
        metric.update(torch.tensor(fired), samples, step)
        for unit in range(4):
            if fired[unit]:
                revived[unit] += silent[unit] >= 6
                silent[unit], last[unit] = 0, step
            else:
                silent[unit] += samples
    states = metric.compute() if batches else None
    if states is not None:
        dead = [count >= 6 for count in silent]
        assert states.dead.tolist() == dead
        assert states.never_fired.tolist() == [d and at < 0 for d, at in zip(dead, last, strict=True)]
        assert states.died_at.tolist() == [at if d else -1 for d, at in zip(dead, last, strict=True)]
        assert states.revivals.tolist() == revived


def test_a_unit_that_fires_on_two_percent_of_samples_is_not_called_dead():
    torch.manual_seed(0)
    metric = DeadUnits(1000)
    for step in range(20):
        metric.update((torch.rand(32, 1000) < 0.02).any(0), 32, step)
    assert metric.compute().dead.float().mean() < 0.01  # (1 - 0.02) ** 300 = 0.2%


def test_state_goes_on_after_a_checkpoint():
    first, second = DeadUnits(2, patience=4), DeadUnits(2, patience=4)
    first.update(torch.tensor([True, False]), 2, 0)
    second.load_state_dict(first.state_dict())
    second.update(torch.tensor([False, False]), 2, 1)
    assert second.compute().dead.tolist() == [False, True]


@pytest.mark.parametrize("patience", [0, 1.5, True])
def test_patience_must_be_a_count(patience):
    with pytest.raises(ArgumentError, match="patience"):
        DeadUnits(2, patience)
