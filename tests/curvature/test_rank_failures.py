"""A rank that fails alone ends the computation on all, at the same place, in place of leaving the others to wait."""

import pytest
import torch
from helpers import curvature_cases
from helpers.launcher import launch

from lightning_gradtools.distributed import mean_over_ranks_of, on_all_ranks


@pytest.fixture(scope="module")
def ranks():
    return launch(curvature_cases.failing_alone)


CASES = [
    *(f"product {at}, {method}" for at in (1, 4) for method in ("retained", "finite_difference")),
    *("loss 1, retained", "loss 1, linearize", "loss 1, fresh", "loss 3, fresh"),
    *(f"loss {at}, finite_difference" for at in (1, 2, 9)),
    *("loss 1, auto with memory None", "loss 2, auto with memory None", "loss 1, auto with memory 1"),
    *("loss 2, auto with memory 1", "loss 2, auto with memory 1000000000"),
]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize("case", CASES)
def test_the_failing_rank_raises_its_own_error_and_the_other_says_whose_it_was(ranks, case, failing):
    raised, interrupted, after = ranks[failing][f"{case}, rank {failing}"]
    assert raised == ("ArgumentError" if "auto" in case else "FullError") + ": memory is full"
    assert interrupted is None
    assert after == [0.5] * 7
    raised, interrupted, after = ranks[1 - failing][f"{case}, rank {failing}"]
    assert raised == f"RankFailure: another rank failed: rank {failing} raised an error of its own"
    assert interrupted is False
    assert after == [0.5] * 7


@pytest.mark.timeout(120)
@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize("case", ["interrupted product", "interrupted difference"])
def test_an_interrupt_of_one_rank_is_one_of_all(ranks, case, failing):
    assert ranks[failing][f"{case}, rank {failing}"] == ("KeyboardInterrupt: memory is full", None, [0.5] * 7)
    raised, interrupted, after = ranks[1 - failing][f"{case}, rank {failing}"]
    assert raised == f"RankFailure: another rank failed: rank {failing} was interrupted"
    assert interrupted is True
    assert after == [0.5] * 7


def test_where_all_fail_each_raises_its_own(ranks):
    for rank in ranks:
        assert rank["both"] == ("FullError: memory is full", None, [0.5] * 7)


def test_a_part_of_another_shape_is_a_failure_too(ranks):
    assert ranks[0]["wrong shape"] == "RankFailure: another rank failed: rank 1 raised an error of its own"
    assert ranks[1]["wrong shape"] == "ValueError: compute() returned shape (4,): must be (3,)"


def test_ranks_that_do_not_fail_get_the_mean_bit_by_bit():
    values = [torch.randn(5, 3, generator=torch.Generator().manual_seed(rank)) for rank in range(2)]
    for rank, found in enumerate(launch(curvature_cases.together)):
        assert torch.equal(found["mean"], (values[0] + values[1]) / 2)
        assert torch.equal(found["mean"], found["plain mean"])
        assert found["own"] == f"rank {rank}"


def test_one_process_needs_nobody():
    assert mean_over_ranks_of(lambda: torch.ones(2), torch.zeros(2)).tolist() == [1, 1]
    assert on_all_ranks(lambda: "here", torch.device("cpu")) == "here"
    with pytest.raises(ZeroDivisionError):
        on_all_ranks(lambda: 1 / 0, torch.device("cpu"))
