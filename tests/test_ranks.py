"""Ranks that work alone for a while, and runs that go on with more or fewer of them."""

import pytest
from helpers import rank_cases as cases
from helpers.launcher import launch


def test_a_step_that_talks_to_other_ranks_is_not_run_by_one_alone():
    for found in launch(cases.talking_to_other_ranks):
        bare, watched = found["weights"]
        assert bare.equal(watched)
        assert "talks to the other ranks (c10d.allgather" in found["spectrum"]
        assert any("GradientCheck" in each and "talks to the other ranks" in each for each in found["said"])
        assert found["detector"] is None
        ((_, step, message), *_) = [each for each in found["findings"] if each[0] == "nonfinite"]
        assert step == 3
        assert "talks to the other ranks" in message
        assert found["initialized"][0] == "trained"
        assert "talks to the other ranks" in found["initialized"][1]


@pytest.mark.parametrize("at", [1, 4])
def test_a_probe_that_fails_on_one_rank_leaves_no_rank_waiting_later(at):
    (told, steps, computed), failed = launch(cases.memory_full_in_a_probe, at)
    assert (told, steps) == ("it failed on another rank", 8)
    assert failed == ("MemoryError in _compute: planted", steps, computed)


def test_every_collective_of_one_rank_alone_is_refused_by_name():
    first, second = launch(cases.collectives_refused)
    assert second == ["nothing: done"]
    for name, operation, said in zip(
        ("all_reduce", "all_gather", "broadcast", "barrier", "objects"),
        ("allreduce", "allgather", "broadcast", "barrier", ""),
        first,
        strict=False,
    ):
        assert said.startswith(f"{name}: it talks to the other ranks (c10d.{operation}"), said
    assert first[-1] == "nothing: done"


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_run_that_goes_on_with_another_number_of_ranks_finds_the_same(tmp_path, before, after):
    def run(ranks, *arguments):
        if ranks == 1:
            return cases.run_of_units(str(tmp_path), *arguments)
        return launch(cases.run_of_units, str(tmp_path), *arguments, world_size=ranks)[0]

    whole = cases.run_of_units(str(tmp_path), 2, None, None)
    run(before, 1, None, "half.ckpt")
    rest = run(after, 2, "half.ckpt", None)
    assert rest["verdicts"] == whole["verdicts"]
    assert rest["units"] == whole["units"]
    assert rest["losses"] == pytest.approx(whole["losses"], rel=1e-4)
    assert rest["threshold"] == pytest.approx(whole["threshold"], rel=1e-4)


def test_units_that_are_split_over_ranks_are_counted_once_each():
    for units in launch(cases.units_of_shards):
        sizes = [(total, samples) for _, _, total, samples in units]
        assert sizes[0][0] == 32  # 16 on each rank
        assert sizes[-1][0] == 32  # all of them on each rank
        assert len({samples for _, samples in sizes}) == 1
        by_name = {name: dead for name, dead, _, _ in units}
        assert by_name["net.3"] == 32  # whose units were killed
