"""Two and four processes against one on the same global batch: DDP, FSDP2, HSDP, tensor parallelism, and mixed."""

import pytest
import torch
from helpers import gradient_cases
from helpers.launcher import launch


@pytest.fixture(scope="module")
def ranks():
    """What each rank found, by strategy."""
    two, four = launch(gradient_cases.all_strategies), launch(gradient_cases.all_strategies, world_size=4)
    return {
        name: [rank[name] for rank in group]
        for group, names in ((two, gradient_cases.STRATEGIES), (four, gradient_cases.ON_FOUR))
        for name in names
    }


@pytest.fixture(scope="module")
def single():
    return gradient_cases.single_process()


@pytest.fixture(params=[*gradient_cases.STRATEGIES, *gradient_cases.ON_FOUR])
def strategy(request):
    return request.param


@pytest.mark.parametrize("p", ["1", "2", "inf"])
def test_norms_equal_the_single_process(ranks, single, strategy, p):
    for rank in ranks[strategy]:
        for found, expected in zip(rank[f"norms, p={p}"], single[f"norms, p={p}"], strict=True):
            assert found == pytest.approx(expected, rel=2e-6)


@pytest.mark.parametrize("p", ["1", "2", "inf"])
def test_weights_are_the_same_bit_by_bit_without_the_monitor(ranks, strategy, p):
    for rank in ranks[strategy]:
        assert torch.equal(rank[f"weights watched, p={p}"], rank["weights"])


def test_everything_else_the_monitor_measures_equals_the_single_process(ranks, single, strategy):
    for rank in ranks[strategy]:
        for found, expected in zip(rank["everything"], single["everything"], strict=True):
            assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_noise_scale_from_ranks_equals_that_from_accumulation(ranks, single):
    assert "grad_noise/signal" in single["noise"][-1]
    for rank in ranks["DDP"]:
        for found, expected in zip(rank["noise"], single["noise"], strict=True):
            assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("method", gradient_cases.CLIPPING)
def test_clipping_equals_the_single_process(ranks, single, strategy, method):
    expected_weights, expected_norms = single[f"clipped by {method}"]
    assert not torch.allclose(expected_weights, single["weights"], atol=1e-3), "nothing was clipped"
    for rank in ranks[strategy]:
        weights, norms = rank[f"clipped by {method}"]
        torch.testing.assert_close(weights, expected_weights, rtol=1e-5, atol=1e-6)
        for found, expected in zip(norms, expected_norms, strict=True):
            assert found == pytest.approx(expected, rel=1e-5)


def test_a_nan_is_skipped_alike_on_every_rank(ranks, single, strategy):
    for rank in ranks[strategy]:
        assert rank["skips"] == 1
        torch.testing.assert_close(rank["one NaN skipped"], single["one NaN skipped"], rtol=1e-5, atol=1e-6)
        assert torch.equal(rank["one NaN skipped"], ranks[strategy][0]["one NaN skipped"])
