"""A rank on which the monitor fails, and a noise scale that not all ranks can measure, on two processes."""

import pytest
import torch
from helpers import monitor_cases
from helpers.launcher import launch


@pytest.fixture(scope="module")
def ranks():
    return launch(monitor_cases.two_ranks)


@pytest.mark.parametrize("case", monitor_cases.FAILURES)
def test_a_rank_that_fails_ends_the_monitor_on_all_where_they_meet_and_training_goes_on(ranks, case):
    for rank in ranks:
        found = rank[case]
        assert torch.equal(found["weights"], rank[found["strategy"]]["weights"])
        assert found["failure"] is not None
    failed = monitor_cases.FAILURES[case].rank
    others = [ranks[rank][case] for rank in range(2) if rank != failed]
    (warning,) = ranks[failed][case]["warnings"]
    assert warning.startswith(f"GradientMonitor on rank {failed} is off for the rest of this run")
    assert "broken on purpose" in warning
    assert "broken on purpose" in ranks[failed][case]["failure"]
    for other in others:
        assert other["warnings"] == []
        assert other["failure"] == "it failed on another rank"
        # The rank that works logs as before, until they meet.
        every, logged = monitor_cases.FAILURES[case].log_every_n_steps, monitor_cases.FAILURES[case].logged
        unharmed = ranks[1 - failed][other["strategy"]]["history"][every - 1 :: every][:logged]
        assert other["history"] == unharmed


@pytest.mark.parametrize("strategy", monitor_cases.STRATEGIES)
def test_a_monitor_that_works_changes_no_weight_on_any_rank(ranks, strategy):
    for rank in ranks:
        assert torch.equal(rank[strategy]["weights"], rank[strategy]["weights without"])
        assert rank[strategy]["failure"] is None
        assert len(rank[strategy]["history"]) == monitor_cases.STEPS


def test_without_anything_to_do_together_the_other_ranks_monitor_goes_on(ranks):
    assert "broken on purpose" in ranks[1]["alone"]["failure"]
    assert ranks[0]["alone"]["failure"] is None
    assert len(ranks[0]["alone"]["history"]) == monitor_cases.STEPS
    assert ranks[0]["alone"]["warnings"] == []


def test_the_noise_of_a_step_counts_where_all_ranks_have_batches_of_one_size(ranks):
    """Sizes differ at step 1, rank 1 finds none at step 3: only the other steps have moved the averages."""
    for rank in ranks:
        uneven, even = rank["uneven"], rank["only the even steps"]
        assert [step for step, _ in uneven["history"]] == list(range(monitor_cases.STEPS))
        noise = {step: {k: v for k, v in values.items() if "noise" in k} for step, values in uneven["history"]}
        assert [step for step in noise if noise[step]] == [0, 2]
        assert uneven["averages"] == pytest.approx(even, rel=1e-6)
        assert uneven["failure"] is None
    assert ranks[0]["uneven"]["averages"] == ranks[1]["uneven"]["averages"]
    assert [len(rank["uneven"]["warnings"]) for rank in ranks] == [0, 1]
    assert "the batch size is not known" in ranks[1]["uneven"]["warnings"][0]


def test_a_crash_of_one_rank_meets_nobody(ranks):
    """The record of the last steps comes without a collective, for which the others would not be there."""
    for rank in ranks:
        assert [step for step, _ in rank["crash"]["history"]] == [0, 1, 2]
        assert not [key for _, values in rank["crash"]["history"] for key in values if "noise" in key]
