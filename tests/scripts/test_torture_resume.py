"""The script that kills training and goes on: what it calls a difference, and a small part of it."""

import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def torture():
    sys.path.insert(0, str(SCRIPTS))
    yield import_module("torture_resume")
    sys.path.remove(str(SCRIPTS))


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ({"a": torch.tensor([1.0])}, {"a": torch.tensor([1.0 + 2**-23])}),
        ({"a": torch.tensor([1.0])}, {"a": torch.tensor([1.0], dtype=torch.float64)}),
        ({"a": [1, 2]}, {"a": [1]}),
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": 1, "b": 2}, {"a": 1}),
        ([("x", 0.1)], [("x", 0.2)]),
        ({"seconds": 1, "a": 1}, {"seconds": 2, "a": 2}),
    ],
)
def test_the_least_difference_is_one(torture, expected, found):
    assert len(torture.differences(expected, found)) == 1
    assert not torture.differences(expected, expected)


def test_what_tells_the_time_and_what_is_no_number_are_no_difference(torture):
    nan = float("nan")
    assert not torture.differences(
        {"curvature/seconds": 1.0, "a": nan, "b": torch.tensor(nan)},
        {"curvature/seconds": 2.0, "a": float("nan"), "b": torch.tensor(nan)},
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", ["digits", "accumulation", "ddp2"])
def test_a_run_that_is_killed_twice_is_the_run_that_was_not(torture, case, tmp_path):
    report = torture.torture(case, 2, 0, tmp_path)
    assert report.kills == 2
    assert not report.differences
