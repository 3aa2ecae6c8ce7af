import math

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from runs import GradientSpy, Regression, batches, fit, loader, mlp, reference_norm, trainer

from lightning_gradtools._lightning.gradient_pass import GradientPass
from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.callbacks import GradientClipping, GradientMonitor


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def weights(module):
    return torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])


def trained(*callbacks, data=None, optimizer=torch.optim.AdamW, settings=None, **arguments):
    torch.manual_seed(0)
    module = Regression(optimizer=optimizer, **(settings or {}))
    run = fit(module, *callbacks, data=data, **arguments)
    return module, run


@pytest.mark.parametrize("limit", [0.1, 1e3])
@pytest.mark.parametrize(("ours", "algorithm"), [("max_norm", "norm"), ("clip_value", "value")], ids=["norm", "value"])
def test_trains_to_the_trainers_own_clipping_bit_by_bit(ours, algorithm, limit):
    limit = limit / 10 if algorithm == "value" else limit
    mine, _ = trained(GradientClipping(**{ours: limit}), GradientMonitor())
    theirs, _ = trained(gradient_clip_val=limit, gradient_clip_algorithm=algorithm)
    assert torch.equal(weights(mine), weights(theirs))


def test_other_callbacks_see_the_gradients_before_clipping():
    first, last = GradientSpy(), GradientSpy()
    trained(first, GradientClipping(0.1), last)
    assert reference_norm(first.before[0]) == reference_norm(last.before[0]) > 0.11
    assert all(reference_norm(after) == pytest.approx(0.1, rel=1e-4) for after in last.after)


def test_excluded_parameters_are_neither_counted_nor_clipped():
    spy = GradientSpy()
    trained(spy, GradientClipping(0.1, exclude=["bias"]))
    for before, after in zip(spy.before, spy.after, strict=True):
        assert all(torch.equal(before[name], after[name]) for name in before if "bias" in name)
        kept = {name: g for name, g in after.items() if "bias" not in name}
        assert reference_norm(kept) == pytest.approx(0.1, rel=1e-4)


def test_overrides_clip_a_group_by_itself_and_the_rest_together():
    class Grouped(Regression):
        def configure_optimizers(self):
            layers = [self.net[0], self.net[2], self.net[4]]
            return torch.optim.SGD([{"params": layer.parameters()} for layer in layers], lr=1e-3)

    spy = GradientSpy()
    fit(Grouped(), spy, GradientClipping(0.03, overrides={"0/2": 0.01, "0/0": None}))
    for before, after in zip(spy.before, spy.after, strict=True):
        norm = {i: reference_norm({k: v for k, v in after.items() if f"net.{i}" in k}) for i in (2, 4)}
        assert norm == {2: pytest.approx(0.03, rel=1e-4), 4: pytest.approx(0.01, rel=1e-4)}
        assert all(torch.equal(before[name], after[name]) for name in before if "net.0" in name)


class Two(Regression):
    """Manual optimisation of two networks; the second optimizer is raw torch if told so."""

    def __init__(self, raw=None):
        super().__init__()
        self.other, self.automatic_optimization, self.raw = mlp(), False, raw

    def training_step(self, batch, batch_idx):
        x, y = batch
        for index, net in enumerate((self.net, self.other)):
            optimizer = self.optimizers(use_pl_optimizer=self.raw is None)[index]
            optimizer.zero_grad()
            self.manual_backward((net(x) - y).square().mean())
            if self.raw is not None:
                self.raw.clip(optimizer)
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(net.parameters(), lr=0.1) for net in (self.net, self.other)]


@pytest.mark.parametrize("raw", [False, True])
def test_manual_optimisation_and_two_optimizers_with_a_threshold_each(raw):
    clipping, spy = GradientClipping(0.1, overrides={1: 0.02}), GradientSpy()
    fit(Two(clipping if raw else None), clipping, spy, max_steps=4, max_epochs=1)
    for part, limit in (("net", 0.1), ("other", 0.02)):
        mine = {name: g for name, g in spy.after[0].items() if name.startswith(part)}
        assert reference_norm(mine) == pytest.approx(limit, rel=1e-3)


def nan_at(*positions):
    data = batches()
    for position in positions:
        data[position][0][0, 0] = math.nan
    return data


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


def test_logs_coefficient_rate_and_skips():
    logged = []
    from lightning.pytorch.loggers import CSVLogger

    class Memory(CSVLogger):
        def log_metrics(self, metrics, step):
            logged.append((step, metrics))

    with pytest.warns(UserWarning, match="is skipped"):
        trained(GradientClipping(0.1), data=nan_at(4), logger=Memory("unused"), log_every_n_steps=2)
    assert [step for step, _ in logged] == [1, 3, 5]
    assert all(0 < metrics["clip/coefficient"] < 1 and metrics["clip/rate"] == 1 for _, metrics in logged)
    assert [metrics["clip/skipped_steps"] for _, metrics in logged] == [0, 0, 1]


def test_state_survives_a_resume_with_other_arguments(tmp_path):
    first = GradientClipping(0.1)
    with pytest.warns(UserWarning, match="is skipped"):
        _, run = trained(first, GradientMonitor(), data=nan_at(3))
    run.save_checkpoint(tmp_path / "last.ckpt")
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]["GradientClipping"]
    second = GradientClipping(clip_value=0.3, max_consecutive_skips=1)
    second.load_state_dict(state)
    assert second.state_dict() == first.state_dict()
    assert second.state_dict()["tallies"]["0"]["skipped_steps"] == 1


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(tmp_path):
    def callbacks(threshold=2.0):
        return GradientClipping(zscore=threshold, warmup_steps=2), GradientMonitor(noise_scale=True)

    whole = callbacks()
    uninterrupted, _ = trained(*whole, data=batches(8), max_epochs=2, accumulate_grad_batches=2)
    _, run = trained(*callbacks(), data=batches(8), accumulate_grad_batches=2)
    run.save_checkpoint(tmp_path / "half.ckpt")
    resumed, halves = Regression(), callbacks()
    again = trainer(*halves, max_epochs=2, accumulate_grad_batches=2)
    again.fit(resumed, loader(batches(8)), ckpt_path=tmp_path / "half.ckpt")
    assert torch.equal(weights(resumed), weights(uninterrupted))
    assert [callback.state_dict() for callback in halves] == [callback.state_dict() for callback in whole]

    other = trainer(GradientClipping(0.1, on_nonfinite="raise"), GradientMonitor(7, norm_type=1), max_epochs=2)
    other.fit(Regression(), loader(batches(8)), ckpt_path=tmp_path / "half.ckpt")


def same_gradients(*callbacks, scales, **settings):
    """Train with weights that stay on one batch, whose gradient is multiplied by each of ``scales``."""

    class Scaled(Regression):
        def training_step(self, batch, batch_idx):
            return super().training_step(batches(1)[0], batch_idx) * scales[batch_idx]

    spy = GradientSpy()
    fit(Scaled(optimizer=torch.optim.SGD, lr=0.0), spy, *callbacks, data=batches(len(scales)), **settings)
    unit = reference_norm(spy.before[0]) / scales[0]
    return [reference_norm(before) / unit for before in spy.before], [
        reference_norm(after) / unit if after else None for after in spy.after
    ]


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


@pytest.fixture
def reading_is_dear(monkeypatch):
    """Make the callback treat this CPU as a device that the host would have to wait for."""
    monkeypatch.setattr(GradientPass, "is_free_to_read", False)


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad])
def test_fused_skips_on_the_device(reading_is_dear, optimizer, recwarn):
    settings = {"fused": True, "weight_decay": 0.1}
    data, clipping = nan_at(2), GradientClipping(0.1)
    seen, _ = trained(clipping, data=data, optimizer=optimizer, settings=settings)
    never, _ = trained(GradientClipping(0.1), data=data[:2] + data[3:], optimizer=optimizer, settings=settings)
    assert torch.equal(weights(seen), weights(never))
    tally = clipping.state_dict()["tallies"]["0"]
    assert (tally["skipped_steps"], tally["last_good_step"]) == (1, 5)
    assert not [warning for warning in recwarn if "GradientClipping" in str(warning.message)]


def test_what_is_on_the_device_is_read_now_and_then_though_nothing_is_logged(reading_is_dear):
    clipping = GradientClipping(0.1)
    trained(clipping, data=batches(150), log_every_n_steps=0)
    (tally,) = clipping._tallies.values()
    assert len(tally.coefficients) == 50
    assert len(tally.clipped) == 100


def test_too_many_skips_on_the_device_are_noticed_when_logged(reading_is_dear):
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


def test_the_module_is_as_before_after_the_fit_and_after_a_failure():
    clipping = GradientClipping(0.1)
    module, _ = trained(clipping)
    assert "configure_gradient_clipping" not in vars(module)
    failing = Regression()
    with pytest.raises(FloatingPointError):
        fit(failing, GradientClipping(0.1, on_nonfinite="raise"), data=nan_at(0))
    assert "configure_gradient_clipping" not in vars(failing)


def test_refuses_a_second_clipper_with_the_way_out():
    class Clips(Regression):
        def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
            pass

    with pytest.raises(ArgumentError, match=r"gradient_clip_val=1.0: must be None .* remove one of them"):
        fit(Regression(), GradientClipping(1.0), gradient_clip_val=1.0)
    with pytest.raises(ArgumentError, match=r"Clips.configure_gradient_clipping: .* remove one of them"):
        fit(Clips(), GradientClipping(1.0))
    with pytest.raises(ArgumentError, match=r"overrides='1': must be one of 0, 0/0$"):
        fit(Regression(), GradientClipping(1.0, overrides={1: 0.5}))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "give one of max_norm, clip_value.*; got none"),
        ({"max_norm": 1, "clip_value": 1}, "got max_norm=1, clip_value=1"),
        ({"max_norm": 0}, "max_norm=0: must be a finite number > 0"),
        ({"max_norm": 1, "norm_type": "l2"}, "norm_type='l2': must be 1, 2 or 'inf'"),
        ({"max_norm": 1, "on_nonfinite": "skp"}, r"on_nonfinite='skp'.*did you mean 'skip'"),
        ({"max_norm": 1, "exclude": "("}, "exclude="),
        ({"max_norm": 1, "overrides": {"0": -1}}, r"overrides\['0'\]=-1"),
        ({"max_norm": 1, "max_consecutive_skips": -1}, "max_consecutive_skips=-1"),
    ],
)
def test_wrong_arguments_are_refused_by_name(wrong, message):
    with pytest.raises(ArgumentError, match=message):
        GradientClipping(**wrong)
