import math

import numpy as np
import pytest
import torch

from lightning_gradtools.gradients.histogram import histogram


def test_counts_are_numpys():
    torch.manual_seed(0)
    values = torch.randn(1000)
    found = histogram(values, bins=16)
    counts, edges = np.histogram(values.numpy(), 16)
    assert found.counts == counts.tolist()
    assert found.edges == pytest.approx(edges.tolist(), abs=1e-6)
    assert (found.total, found.squares) == pytest.approx((values.sum().item(), values.square().sum().item()))


def test_leaves_out_what_is_not_finite():
    found = histogram(torch.tensor([1.0, math.nan, 3.0, -math.inf]), bins=2)
    assert (sum(found.counts), found.edges) == (2, [1, 2, 3])
    assert histogram(torch.tensor([math.nan])) is None
    assert histogram(torch.zeros(0)) is None


def test_equal_values_have_a_bin_of_their_own():
    found = histogram(torch.full((5,), 2.0), bins=4)
    assert (found.edges[0], found.edges[-1], max(found.counts)) == (1.5, 2.5, 5)
