import pytest
import torch

from lightning_gradtools.activations import Saturation


def test_a_constant_share_is_its_own_average_from_the_first_batch_on():
    metric = Saturation(2, memory=100)
    for _ in range(3):
        metric.update(torch.tensor([0.25, 1.0]), 10)
        torch.testing.assert_close(metric.shares(), torch.tensor([0.25, 1.0]))
        assert metric.compute().tolist() == [False, True]


def test_splitting_a_batch_changes_nothing():
    whole, halves = Saturation(1, memory=50), Saturation(1, memory=50)
    for share in (0.9, 0.1, 0.6):
        whole.update(torch.tensor([share]), 20)
        halves.update(torch.tensor([share]), 10)
        halves.update(torch.tensor([share]), 10)
    torch.testing.assert_close(whole.shares(), halves.shares())


def test_it_forgets_with_its_time_constant():
    metric = Saturation(1, memory=100)
    metric.update(torch.tensor([1.0]), 10**6)
    metric.update(torch.tensor([0.0]), 100)
    assert float(metric.shares()) == pytest.approx(torch.tensor(-1.0).exp().item())
