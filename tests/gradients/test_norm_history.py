import math
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_gradtools.gradients.norm_history import NormHistory

norms = st.lists(st.floats(0.0625, 1024, width=32), min_size=3, max_size=30)


def filled(values, window=8, warmup=2):
    history = NormHistory(window, warmup)
    for value in values:
        history.add(torch.tensor(value))
    return history


@given(norms, st.floats(0, 100))
def test_percentile_is_numpys_of_the_latest(values, q):
    assert float(filled(values).percentile(q)) == pytest.approx(np.percentile(values[-8:], q), rel=1e-5)


@given(norms, st.floats(0.5, 10))
def test_robust_bound_is_median_and_mad_of_the_latest(values, z):
    latest = values[-8:]
    median = statistics.median(latest)
    deviation = 1.4826 * statistics.median(abs(value - median) for value in latest)
    expected = median + z * max(deviation, 0.01 * median)
    assert float(filled(values).robust_bound(z)) == pytest.approx(expected, rel=1e-4)


@given(norms, st.lists(st.tuples(st.integers(0, 30), st.sampled_from([math.nan, math.inf])), max_size=9))
def test_what_is_not_finite_leaves_no_trace_once_a_finite_norm_follows(values, bad):
    poisoned = list(values)
    for place, value in bad:
        poisoned.insert(place % len(poisoned), value)
    assert filled(poisoned).tolist() == pytest.approx(filled(values).tolist())


def test_up_to_half_of_outliers_do_not_move_the_bound_far():
    calm = [1.0 + 0.01 * i for i in range(8)]
    assert float(filled(calm[:5] + [1e6] * 3).robust_bound(2.5)) < 1.3


def test_there_is_no_threshold_before_the_warm_up_is_over():
    history = filled([1.0, math.nan, 2.0], warmup=3)
    assert history.percentile(10).isinf()
    assert history.robust_bound(2.5).isinf()
    history.add(torch.tensor(3.0))
    assert history.percentile(50).item() == 2


def test_goes_on_from_a_list_of_another_length():
    values = filled(range(1, 12)).tolist()
    assert values == list(range(4, 12))
    assert NormHistory(3, 1, values).tolist() == [9, 10, 11]
    longer = NormHistory(20, 1, values)
    longer.add(torch.tensor(12.0))
    assert longer.tolist() == [*values, 12]
