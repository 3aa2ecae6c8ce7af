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
    dead, never_fired, revived, last_death, saturated = statistics.counts(statistics.largest(), statistics.averages(), ranks=1).T.tolist()
    assert dead == [2, 0, 2]
    assert never_fired == [1, 0, 1]
    assert revived == [1, 0, 0]  # silent for 20 samples, and then it fired
    assert last_death == [1, -1, 0]
    assert saturated == [0, 1, 0]
    assert not statistics.fits(steps[0][:2])
