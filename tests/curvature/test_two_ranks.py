"""Two processes against one on the same global batch."""

import pytest
import torch
from helpers import curvature_cases
from helpers.launcher import launch


@pytest.fixture(scope="module")
def ranks():
    return launch(curvature_cases.two_ranks)


@pytest.fixture(scope="module")
def single():
    return curvature_cases.one_process()


@pytest.mark.parametrize("case", ["DDP", "DDP, differences", "FSDP2"])
def test_eigenvalues_in_float64_equal_those_of_one_process(ranks, single, case):
    expected = single["spectrum"][0]
    for rank in ranks:
        values, bounds, method, converged, _ = rank[case]
        assert converged
        assert (values - expected).abs().max() <= 1e-6 * expected.abs().max()
        assert ((values - expected).abs() <= bounds + single["spectrum"][1]).all()
        assert method.startswith("retained" if case == "DDP" else "finite difference")
        assert ("one-sided" in method) == (case != "DDP, differences")
    assert torch.equal(ranks[0][case][0], ranks[1][case][0])


@pytest.mark.parametrize("strategy", ["DDP", "FSDP2"])
def test_the_callback_logs_what_it_does_in_one_process_and_changes_nothing(ranks, single, strategy):
    for rank in ranks:
        history, weights = rank[f"{strategy} run, True"]
        assert torch.equal(weights, rank[f"{strategy} run, False"][1])
        assert len(history) == 2
        for found, expected in zip(history, single["run"][0], strict=True):
            assert found.keys() == expected.keys()
            for key in expected:
                if not key.endswith(("seconds", "gradients")):
                    assert found[key] == pytest.approx(expected[key], rel=2e-3, abs=1e-4), key


def test_frozen_shards_in_half_precision_are_refused(ranks):
    for rank in ranks:
        assert "net.2.weight is frozen and sharded in torch.bfloat16" in rank["FSDP2, frozen in half precision"]
