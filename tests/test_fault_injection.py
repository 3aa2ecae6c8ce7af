"""Nothing of ours that fails stops a run, changes it, or leaves anything behind: each guarded call raises in turn."""

import pytest
from helpers import fault_cases as cases
from helpers.launcher import launch


@pytest.mark.parametrize("name", cases.OBSERVERS)
def test_each_guarded_call_that_raises_is_told_once_and_training_is_as_without_us(name):
    count, wrong = cases.every_site(name)
    assert count >= 2
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("strategy", ["DDP", pytest.param("FSDP2", marks=pytest.mark.slow)])
def test_on_one_of_two_ranks_both_go_on_and_neither_waits(strategy):
    first, second = launch(cases.every_site_on_one_of_two_ranks, list(cases.OBSERVERS), strategy)
    for name in cases.OBSERVERS:
        for count, wrong in (first[name], second[name]):
            assert count >= 2
            assert not wrong, "\n".join(wrong)


def test_an_interrupt_of_one_of_two_ranks_in_a_probe_gives_up_that_computation_on_both():
    (weights, steps, computed), (others, *rest) = launch(cases.interrupt_on_one_of_two_ranks)
    assert steps == 6
    assert computed == [3, 5]  # the one after step 1 was given up
    assert rest == [steps, computed]
    assert weights.equal(others)
