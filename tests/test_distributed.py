"""Two processes against one on the same global batch: DDP, FSDP2, tensor parallelism, and mixed."""

import pytest
import torch
from helpers import gradient_cases
from helpers.launcher import launch


@pytest.fixture(scope="module")
def ranks():
    return launch(gradient_cases.all_strategies)


@pytest.fixture(scope="module")
def single():
    return gradient_cases.single_process()


@pytest.fixture(params=gradient_cases.STRATEGIES)
def strategy(request):
    return request.param


@pytest.mark.parametrize("p", ["1", "2", "inf"])
def test_norms_equal_the_single_process(ranks, single, strategy, p):
    for rank in ranks:
        for found, expected in zip(rank[strategy][f"norms, p={p}"], single[f"norms, p={p}"], strict=True):
            assert found == pytest.approx(expected, rel=2e-6)


@pytest.mark.parametrize("p", ["1", "2", "inf"])
def test_weights_are_the_same_bit_by_bit_without_the_monitor(ranks, strategy, p):
    for rank in ranks:
        assert torch.equal(rank[strategy][f"weights watched, p={p}"], rank[strategy]["weights"])


def test_everything_else_the_monitor_measures_equals_the_single_process(ranks, single, strategy):
    for rank in ranks:
        for found, expected in zip(rank[strategy]["everything"], single["everything"], strict=True):
            assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_noise_scale_from_ranks_equals_that_from_accumulation(ranks, single):
    assert "grad_noise/signal" in single["noise"][-1]
    for rank in ranks:
        for found, expected in zip(rank["DDP"]["noise"], single["noise"], strict=True):
            assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("method", gradient_cases.CLIPPING)
def test_clipping_equals_the_single_process(ranks, single, strategy, method):
    expected_weights, expected_norms = single[f"clipped by {method}"]
    assert not torch.allclose(expected_weights, single["weights"], atol=1e-3), "nothing was clipped"
    for rank in ranks:
        weights, norms = rank[strategy][f"clipped by {method}"]
        torch.testing.assert_close(weights, expected_weights, rtol=1e-5, atol=1e-6)
        for found, expected in zip(norms, expected_norms, strict=True):
            assert found == pytest.approx(expected, rel=1e-5)


def test_a_nan_is_skipped_alike_on_every_rank(ranks, single, strategy):
    for rank in ranks:
        assert rank[strategy]["skips"] == 1
        torch.testing.assert_close(rank[strategy]["one NaN skipped"], single["one NaN skipped"], rtol=1e-5, atol=1e-6)
    assert torch.equal(ranks[0][strategy]["one NaN skipped"], ranks[1][strategy]["one NaN skipped"])
