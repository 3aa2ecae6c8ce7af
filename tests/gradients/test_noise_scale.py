import pytest
import torch

from lightning_gradtools.gradients.noise_scale import NoiseScale, unbiased_terms


def test_inverts_the_expected_squared_norms():
    """E|mean of B|² = |G|² + tr Σ / B, exactly."""
    signal, noise = 3.0, 40.0
    terms = unbiased_terms(signal + noise / 8, 8, signal + noise / 64, 64)
    assert terms == pytest.approx((signal, noise))


def test_finds_the_scale_of_gaussian_gradients():
    torch.manual_seed(0)
    true, deviation, dimension = torch.full((50,), 0.2), 1.5, 50
    expected = deviation**2 * dimension / float(true.square().sum())
    estimate = NoiseScale()
    late = []
    for step in range(2000):
        samples = true + deviation * torch.randn(64, dimension)
        small = samples.view(8, 8, dimension).mean(1).square().sum(1).mean()
        estimate.update(float(small), 8, float(samples.mean(0).square().sum()), 64)
        late += [(estimate.noise, estimate.signal)] if step > 100 else []
    noise, signal = (sum(values) / len(late) for values in zip(*late, strict=True))
    # 1900 steps of a relative deviation below 1 each: the mean is within 6 standard errors
    assert noise / signal == pytest.approx(expected, rel=0.15)


def test_the_bias_towards_the_start_cancels():
    estimate = NoiseScale()
    estimate.update(3 + 40 / 8, 8, 3 + 40 / 64, 64)
    assert estimate.scale == pytest.approx(40 / 3)
    assert estimate.noise / estimate.weight == pytest.approx(40)


def test_there_is_no_scale_while_noise_drowns_an_estimate():
    estimate = NoiseScale()
    assert estimate.scale is None
    estimate.update(1.0, 8, 0.01, 64)  # the big batch's norm is below what noise alone leaves
    assert estimate.scale is None
