"""Units that are all the same, on one rank and split over several in every way."""

import pytest
import torch
from helpers import symmetry_cases as cases
from helpers.launcher import launch

from lightning_gradtools.gradients.symmetry import local_extremes, units_are_one


def one(tensor):
    (flag,) = units_are_one([local_extremes(tensor)])
    return bool(flag)


@pytest.mark.parametrize("shape", [(2, 1), (5, 3), (4, 2, 3, 3), (3, 0)])
def test_repeated_rows_are_one_unit(shape):
    row = torch.randn(shape[1:])
    assert one(row.expand(shape))
    assert one(torch.zeros(shape))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_one_entry_that_differs_is_enough(dtype):
    weight = torch.ones(6, 4, dtype=dtype)
    weight[5, 3] = 1.01
    assert not one(weight)


def test_rounding_is_no_difference():
    row = torch.randn(16, dtype=torch.float64)
    rounded = (row.float() * (1 + torch.finfo(torch.float32).eps)).double()
    assert one(torch.stack([row, rounded]))
    assert not one(torch.stack([row, row + 1e-3 * row.abs().max()]))


def test_what_is_not_finite_is_not_said_to_be_the_same():
    assert not one(torch.full((3, 2), float("nan")))


def test_split_over_ranks_in_any_way_the_answer_is_that_of_the_whole():
    for rank in launch(cases.split_in_every_way, world_size=4):
        assert rank["wrong"] == []
        assert rank["compared"] == 4 * len(cases.WAYS)
