import math

import pytest
import torch
from helpers.clipping_cases import same_gradients, trained, weights
from helpers.runs import GradientSpy, Regression, fit, reference_norm

from lightning_gradtools.callbacks import GradientClipping, GradientMonitor


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.LBFGS])
@pytest.mark.parametrize("limit", [0.1, 1e3])
@pytest.mark.parametrize(("ours", "algorithm"), [("max_norm", "norm"), ("clip_value", "value")], ids=["norm", "value"])
def test_trains_to_the_trainers_own_clipping_bit_by_bit(ours, algorithm, limit, optimizer):
    limit = limit / 10 if algorithm == "value" else limit
    mine, _ = trained(GradientClipping(**{ours: limit}), GradientMonitor(), optimizer=optimizer)
    theirs, _ = trained(gradient_clip_val=limit, gradient_clip_algorithm=algorithm, optimizer=optimizer)
    assert torch.equal(weights(mine), weights(theirs))


def test_lbfgs_is_clipped_in_every_evaluation_of_its_closure_by_its_own_norm():
    norms, spy = [], GradientSpy()

    class Spied(torch.optim.LBFGS):
        def step(self, closure):
            def watched():
                loss = closure()
                norms.append(math.hypot(*(p.grad.norm().item() for p in self._params)))
                return loss

            return super().step(watched)

    trained(spy, GradientClipping(0.5), GradientMonitor(), optimizer=Spied, settings={"max_iter": 4})
    before = [reference_norm(gradients) for gradients in spy.before]
    assert len(before) > 6
    assert any(norm > 0.5 for norm in before)
    assert norms == pytest.approx([min(0.5, norm) for norm in before], rel=1e-4)


def test_percentile_clips_to_that_of_the_norms_so_far():
    scales = [1, 3, 2, 5, 4, 9]
    before, after = same_gradients(GradientClipping(percentile=50, warmup_steps=3), scales=scales)
    assert before == pytest.approx(scales, rel=1e-5)
    # medians of the first 3, 4, 5 and 6 norms: 2, 2.5, 3, 3.5
    assert after == pytest.approx([1, 3, 2, 2.5, 3, 3.5], rel=1e-4)


def test_zscore_clips_outliers_and_a_nan_does_not_poison_it():
    clipping = GradientClipping(zscore=2.5, warmup_steps=4)
    with pytest.warns(UserWarning, match="is skipped"):
        _, after = same_gradients(clipping, scales=[1, 1.2, 0.8, 1, math.nan, 1.1, 50, 1.05])
    limit = 1 + 2.5 * 1.4826 * 0.1  # median 1 and MAD 0.1 of 0.8, 1, 1, 1.1, 1.2
    assert after[5:] == pytest.approx([1.1, limit, 1.05], rel=1e-4)
    assert after[4] is None
    history = clipping.state_dict()["histories"]["0"]
    assert all(map(math.isfinite, history))
    assert len(history) == 7


def test_max_norm_caps_what_the_history_allows():
    capped = GradientClipping(max_norm=1e-6, percentile=50, warmup_steps=2)
    _, after = same_gradients(capped, scales=[1, 2, 3])
    assert all(norm < 1e-5 for norm in after)


def test_adaptive_clips_units_by_their_weights():
    spy = GradientSpy()
    module = Regression(optimizer=torch.optim.SGD, lr=0.0)
    fit(module, spy, GradientClipping(adaptive=0.01, exclude=r"net\.4"), GradientMonitor())
    weight = module.net[2].weight.detach().double()
    for before, after in zip(spy.before, spy.after, strict=True):
        limit = 0.01 * weight.norm(dim=1, keepdim=True)
        norms = before["net.2.weight"].norm(dim=1, keepdim=True)
        expected = before["net.2.weight"] * torch.where(norms > limit, limit / norms, 1.0)
        torch.testing.assert_close(after["net.2.weight"], expected, rtol=1e-5, atol=1e-9)
        assert torch.equal(before["net.4.weight"], after["net.4.weight"])
