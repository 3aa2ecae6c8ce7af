import torch

from lightning_gradtools.activations.step_tap import TappedActivation
from lightning_gradtools.callbacks.pathology_detector.unit_statistics import UnitStatistics


def sites(*measured):
    return [TappedActivation(f"act{i}", "tanh" if flat else "relu", i, *m) for i, (flat, m) in enumerate(measured)]


def fires(*units):
    return False, (torch.tensor(units, dtype=torch.bool), None)


def flat(*shares):
    return True, (None, torch.tensor(shares))


def test_counts_of_each_site_are_those_of_its_own_units():
    steps = [
        sites(fires(1, 0, 1), flat(1.0, 0.0), fires(0, 1)),
        sites(fires(1, 0, 0), flat(1.0, 0.0), fires(0, 0)),
        sites(fires(0, 0, 0), flat(1.0, 0.0), fires(0, 0)),
        sites(fires(0, 0, 1), flat(1.0, 0.0), fires(0, 0)),
    ]
    statistics = UnitStatistics(steps[0], patience=20)
    for step, seen in enumerate(steps):
        assert statistics.fits(seen)
        silent = statistics.update(seen, samples=10, step=step)
    assert silent.tolist() == [2, 0, 2]
    counts = statistics.counts(statistics.largest(), statistics.averages(), ranks=1)
    assert {name: numbers.tolist() for name, numbers in counts.items()} == {
        "dead": [2, 0, 2],
        "never fired": [1, 0, 1],
        "revived": [1, 0, 0],  # silent for 20 samples, and then it fired
        "last death": [1, -1, 0],
        "saturated": [0, 1, 0],
    }
    assert not statistics.fits(steps[0][:2])


def test_over_ranks_a_unit_was_silent_as_long_as_where_it_was_least_so_times_their_number():
    statistics = UnitStatistics(sites(fires(0, 0)), patience=20)
    statistics.update(sites(fires(0, 0)), samples=10, step=0)
    counts = {ranks: statistics.counts(statistics.largest(), statistics.averages(), ranks)["dead"] for ranks in (1, 2)}
    assert {ranks: dead.tolist() for ranks, dead in counts.items()} == {1: [0], 2: [2]}
