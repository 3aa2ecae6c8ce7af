import torch

from lightning_gradtools.activations.step_tap import TappedActivation
from lightning_gradtools.callbacks.pathology_detector.unit_statistics import UnitStatistics


def sites(*measured):
    return [TappedActivation(f"act{i}", "tanh" if flat else "relu", i, *m) for i, (flat, m) in enumerate(measured)]


def fires(*units):
    return False, (torch.tensor(units, dtype=torch.bool), None)


def flat(*shares):
    return True, (None, torch.tensor(shares))


def update(statistics, seen, step, samples=10):
    fired = [site.fired for site in seen if site.fired is not None]
    shares = [site.flat for site in seen if site.flat is not None]
    both = torch.cat(fired), torch.cat(shares) if shares else torch.zeros(0)
    return statistics.update(*both, torch.tensor(samples), step)


def as_lists(counts):
    return {name: numbers.tolist() for name, numbers in counts.items()}


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
        silent = update(statistics, seen, step)
    assert silent.tolist() == [2, 0, 2]
    assert as_lists(statistics.counts()) == {
        "dead": [2, 0, 2],
        "never fired": [1, 0, 1],
        "revived": [1, 0, 0],  # silent for 20 samples, and then it fired
        "last death": [1, -1, 0],
        "saturated": [0, 1, 0],
    }
    assert statistics.units().tolist() == [3, 2, 2]
    assert not statistics.fits(steps[0][:2])


def test_units_that_ranks_share_out_are_all_counted_and_those_that_each_has_are_counted_once():
    here = sites(fires(0, 1), fires(0, 1), flat(1.0, 0.0), flat(1.0, 0.0))
    statistics = UnitStatistics(here, patience=10, shards=2)
    fired = torch.tensor([0, 1, 0, 1, 0, 0, 0, 1], dtype=torch.bool)  # the first activation differs between ranks
    shares = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0])  # as does the third
    assert statistics.update(fired, shares, torch.tensor(10), 0).tolist() == [3, 1, 0, 0]
    assert statistics.units().tolist() == [4, 2, 4, 2]
    counts = statistics.counts()
    assert counts["dead"].tolist() == [3, 1, 0, 0]
    assert counts["saturated"].tolist() == [0, 0, 3, 1]


def test_a_state_of_another_number_of_shards_is_not_taken_over():
    here = sites(fires(0, 1), flat(1.0, 0.0))
    before = UnitStatistics(here, patience=10, shards=2)
    before.update(torch.zeros(4, dtype=torch.bool), torch.ones(4), torch.tensor(10), 0)
    before.samples = 10
    same, other = UnitStatistics(here, patience=10, shards=2), UnitStatistics(here, patience=10)
    for statistics in (same, other):
        statistics.load_state_dict(before.state_dict())
    assert as_lists(same.counts()) == as_lists(before.counts())
    assert (same.samples, other.samples) == (10, 0)
    assert update(other, here, 1).tolist() == [1, 0]
