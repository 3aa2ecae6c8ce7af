import logging

import pytest
import torch
from helpers.clipping_cases import nan_at, trained, weights
from helpers.runs import GradientSpy, Regression, batches, fit, reference_norm
from lightning.pytorch.plugins import MixedPrecision

from lightning_gradtools.callbacks import GradientClipping, GradientMonitor


@pytest.mark.parametrize(
    ("optimizer", "settings"),
    [
        (torch.optim.AdamW, {"weight_decay": 0.1}),
        (torch.optim.AdamW, {"fused": True}),
        (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
        (torch.optim.RMSprop, {}),
    ],
)
def test_a_skipped_batch_leaves_no_trace(optimizer, settings):
    data = nan_at(2)
    clipping = GradientClipping(0.5)
    with pytest.warns(UserWarning, match=r"not finite at global step 2: net.0.weight, net.0.bias"):
        seen, _ = trained(clipping, data=data, optimizer=optimizer, settings=settings)
    never, _ = trained(GradientClipping(0.5), data=data[:2] + data[3:], optimizer=optimizer, settings=settings)
    assert weights(seen).isfinite().all()
    assert torch.equal(weights(seen), weights(never))
    assert clipping.state_dict()["tallies"]["0"]["skipped_steps"] == 1


def test_zero_is_not_skip_momentum_and_decay_go_on():
    with pytest.warns(UserWarning, match="taken with zero gradients"):
        zeroed, _ = trained(GradientClipping(0.5, on_nonfinite="zero"), data=nan_at(2))
    with pytest.warns(UserWarning, match="skipped"):
        skipped, _ = trained(GradientClipping(0.5), data=nan_at(2))
    assert weights(zeroed).isfinite().all()
    assert not torch.equal(weights(zeroed), weights(skipped))


def test_raise_names_the_step_and_the_layers():
    with pytest.raises(FloatingPointError, match=r"global step 2: net\.0\.weight.*good one was global step 1"):
        trained(GradientClipping(0.5, on_nonfinite="raise"), data=nan_at(2))


def test_none_does_as_lightning_does():
    module, _ = trained(GradientClipping(0.5, on_nonfinite=None), data=nan_at(2))
    assert weights(module).isnan().all()


def test_too_many_skips_in_a_row_stop_and_name_the_last_good_step():
    clipping = GradientClipping(0.5, max_consecutive_skips=2)
    with (
        pytest.warns(UserWarning, match="is skipped"),
        pytest.raises(FloatingPointError, match=r"3 steps in a row .*=2\), the last good one was global step 1$"),
    ):
        trained(clipping, data=nan_at(2, 3, 4))
    with pytest.warns(UserWarning, match="is skipped"):
        trained(GradientClipping(0.5, max_consecutive_skips=2), data=nan_at(0, 1, 3, 4))


def test_overflow_of_finite_gradients_is_clipped_not_skipped():
    spy = GradientSpy()
    data = batches(scale=1e25)
    trained(spy, GradientClipping(0.5), data=data, optimizer=torch.optim.SGD)
    assert torch.tensor(reference_norm(spy.before[0])).float().square().isinf()
    assert reference_norm(spy.after[0]) == pytest.approx(0.5, rel=1e-4)


def test_a_clamp_does_not_hide_infinities_from_the_loss_scaler():
    # all products have one sign, so the overflow is infinite and not NaN
    data = [(x.abs() + 0.1, y.abs() + 10) for x, y in batches()]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)
    module = Regression(lambda: torch.nn.Linear(4, 1), fused=True)
    spy, before = GradientSpy(), weights(module).clone()
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    fit(module, spy, GradientClipping(clip_value=0.01), data=data[:1], plugins=[plugin])
    assert all(gradient.isinf().any() and not gradient.isnan().any() for gradient in spy.before[0].values())
    assert scaler.get_scale() == 2.0**29
    assert torch.equal(weights(module), before)


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad])
def test_fused_skips_on_the_device(reading_is_expensive, optimizer, recwarn):
    settings = {"fused": True, "weight_decay": 0.1}
    data, clipping = nan_at(2), GradientClipping(0.1)
    seen, _ = trained(clipping, data=data, optimizer=optimizer, settings=settings)
    never, _ = trained(GradientClipping(0.1), data=data[:2] + data[3:], optimizer=optimizer, settings=settings)
    assert torch.equal(weights(seen), weights(never))
    tally = clipping.state_dict()["tallies"]["0"]
    assert (tally["skipped_steps"], tally["last_good_step"]) == (1, 5)
    assert not [warning for warning in recwarn if "GradientClipping" in str(warning.message)]


def test_too_many_skips_on_the_device_are_noticed_when_logged(reading_is_expensive):
    with pytest.raises(FloatingPointError, match=r"4 steps in a row .*good one was global step 0"):
        trained(
            GradientClipping(0.1, max_consecutive_skips=2, log_every_n_steps=5),
            data=nan_at(1, 2, 3, 4),
            settings={"fused": True},
        )


@pytest.mark.parametrize("clip", [{"max_norm": 0.1}, {"clip_value": 0.01}, {"adaptive": 0.01}], ids=str)
@pytest.mark.parametrize("fused", [False, True])
def test_fp16_scale_search_is_no_fault_and_clipping_is_unscaled(clip, fused):
    def run(*callbacks, scale=2.0**10, data=None, **arguments):
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        precision = MixedPrecision("16-mixed", "cpu", scaler)
        settings = {"fused": fused}
        return trained(*callbacks, plugins=[precision], data=data, settings=settings, **arguments)[0], scaler

    monitor, clipping = GradientMonitor(), GradientClipping(**clip)
    scaled, _ = run(monitor, clipping)
    reference_monitor = GradientMonitor()
    other_scale, _ = run(reference_monitor, GradientClipping(**clip), scale=2.0**8)
    # the loss scale is in neither the norms nor the weights; fp16 rounds alike at both scales
    for record, expected in zip(monitor.history, reference_monitor.history, strict=True):
        assert record.values == pytest.approx(expected.values, rel=1e-2)
    torch.testing.assert_close(weights(scaled), weights(other_scale), rtol=1e-3, atol=1e-4)

    # a scale that overflows fp16 is halved until it does not, which counts as no fault
    searching = GradientClipping(**clip)
    module, scaler = run(searching, scale=2.0**26, max_epochs=4)
    assert scaler.get_scale() < 2.0**26
    assert searching.state_dict()["tallies"]["0"]["skipped_steps"] == 0
    assert weights(module).isfinite().all()

    # a NaN that is still there at scale 1 does count
    faulty = GradientClipping(**clip, max_consecutive_skips=2)
    with pytest.raises(FloatingPointError, match="3 steps in a row"):
        run(faulty, scale=4.0, data=nan_at(*range(6)))


def test_where_warnings_are_errors_a_skip_is_logged_and_the_run_goes_on(caplog):
    with caplog.at_level(logging.ERROR, logger="lightning_gradtools"):
        seen, run = trained(GradientClipping(0.5), data=nan_at(2))
    assert run.global_step == 6
    assert "not finite at global step 2" in caplog.text
    assert weights(seen).isfinite().all()


def test_too_many_skips_on_the_device_are_noticed_though_nothing_is_logged(reading_is_expensive):
    data = nan_at(*range(90, 120), count=200)
    clipping = GradientClipping(0.1)
    with pytest.raises(FloatingPointError, match=r"10 steps in a row .*=9\), the last good one was global step 89"):
        trained(
            GradientClipping(0.1, max_consecutive_skips=9),
            data=data,
            settings={"fused": True},
            log_every_n_steps=0,
        )
    assert clipping.state_dict()["tallies"] == {}


class OneByHand(Regression):
    """Manual optimisation with a raw fused optimizer."""

    def __init__(self, clipping, steps=True):
        super().__init__(optimizer=torch.optim.AdamW, fused=True)
        self.automatic_optimization, self.clipping, self.steps, self.calls = False, clipping, steps, []

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers(use_pl_optimizer=False)
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        self.clipping.clip(optimizer)
        if self.steps:
            if batch_idx == 0:
                optimizer.register_step_post_hook(lambda *_: self.calls.append(1))
            optimizer.step()
        else:
            self.clipping.clip(optimizer)
            assert hasattr(optimizer, "found_inf")


def test_a_hook_of_the_users_on_the_optimizer_goes_on_beside_a_verdict_on_the_device(reading_is_expensive):
    def run(data):
        torch.manual_seed(0)
        clipping = GradientClipping(0.1)
        module = OneByHand(clipping)
        fit(module, clipping, data=data)
        return module

    data = nan_at(2)
    seen, never = run(data), run(data[:2] + data[3:])
    assert len(seen.calls) == 6
    assert torch.equal(weights(seen), weights(never))


def test_a_verdict_that_no_step_took_is_not_left_on_the_optimizer(reading_is_expensive):
    clipping = GradientClipping(0.1)
    module = OneByHand(clipping, steps=False)
    run = fit(module, clipping, data=nan_at(5))
    assert not hasattr(run.optimizers[0], "found_inf")
    before = weights(module)
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    run.optimizers[0].step()
    assert not torch.equal(weights(module), before)
