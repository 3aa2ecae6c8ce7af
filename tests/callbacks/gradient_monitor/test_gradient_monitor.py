import csv
import math
from collections import OrderedDict

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from runs import GradientSpy, Regression, batches, fit, mlp, reference_norm
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.callbacks import GradientClipping, GradientMonitor
from lightning_gradtools.callbacks.gradient_monitor import callback as gradient_monitor
from lightning_gradtools.reporting.figures.gradients import norms_over_depth


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def last(monitor):
    return monitor.history[-1].values


@pytest.mark.parametrize("p", [1, 2, math.inf])
def test_every_layer_and_the_total_equal_float64(p):
    spy, monitor = GradientSpy(), GradientMonitor(norm_type=p)
    fit(Regression(), spy, monitor)
    assert [record.step for record in monitor.history] == list(range(6))
    for record, gradients in zip(monitor.history, spy.before, strict=True):
        expected = {f"grad_norm/{name}": reference_norm({name: g}, p) for name, g in gradients.items()}
        expected["grad_norm/total"] = reference_norm(gradients, p)
        assert record.values == pytest.approx(expected, rel=1e-6)


def test_follows_the_trainers_cadence_unless_told_otherwise():
    follows, own = GradientMonitor(), GradientMonitor(2, prefix="own/")
    fit(Regression(), follows, own, log_every_n_steps=3)
    assert [record.step for record in follows.history] == [2, 5]
    assert [record.step for record in own.history] == [1, 3, 5]
    assert all(key.startswith("own/grad_norm/") for key in last(own))


def test_accumulation_with_a_tail_is_measured_once_a_window():
    spy, monitor = GradientSpy(), GradientMonitor()
    fit(Regression(), spy, monitor, accumulate_grad_batches=4)
    assert [record.step for record in monitor.history] == [0, 1]
    totals = [record.values["grad_norm/total"] for record in monitor.history]
    assert totals == pytest.approx([reference_norm(gradients) for gradients in spy.before], rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "callbacks"),
    [
        ({"gradient_clip_val": 0.1}, []),
        ({"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}, []),
        ({}, [GradientClipping(0.1)]),
        ({}, [GradientClipping(clip_value=0.01)]),
        ({}, [GradientClipping(0.1, exclude="bias")]),
    ],
    ids=["Trainer by norm", "Trainer by value", "ours by norm", "ours by value", "ours without biases"],
)
def test_after_clipping_is_what_the_optimizer_got(settings, callbacks):
    spy, monitor = GradientSpy(), GradientMonitor()
    fit(Regression(), spy, monitor, *callbacks, **settings)
    for record, before, after in zip(monitor.history, spy.before, spy.after, strict=True):
        assert record.values["grad_norm/total"] == pytest.approx(reference_norm(before), rel=1e-6)
        assert record.values["grad_norm_clipped/total"] == pytest.approx(reference_norm(after), rel=1e-5)
        for name, gradient in after.items():
            if f"grad_norm_clipped/{name}" in record.values:
                expected = pytest.approx(reference_norm({name: gradient}), rel=1e-5)
                assert record.values[f"grad_norm_clipped/{name}"] == expected
    assert reference_norm(spy.after[0]) < reference_norm(spy.before[0])
    uniform = not callbacks and "gradient_clip_algorithm" not in settings
    assert uniform <= ("grad_norm_clipped/net.0.weight" not in last(monitor))


def test_nothing_is_said_about_clipping_where_nothing_clips():
    monitor = GradientMonitor()
    fit(Regression(), monitor)
    assert not [key for key in last(monitor) if "clip" in key]


@pytest.mark.parametrize(
    ("group_by", "layers"),
    [
        ("module", {"net.0": ["net.0.weight", "net.0.bias"], "net.2": ["net.2.weight", "net.2.bias"]}),
        (r"^net\.[02]", {"net.0": ["net.0.weight", "net.0.bias"], "net.2": ["net.2.weight", "net.2.bias"]}),
        (r"(weight|bias)$", {"bias": ["net.0.bias", "net.2.bias", "net.4.bias"]}),
    ],
)
def test_layers_are_grouped(group_by, layers):
    spy, monitor = GradientSpy(), GradientMonitor(group_by=group_by)
    fit(Regression(), spy, monitor)
    for layer, names in layers.items():
        expected = reference_norm({name: spy.before[-1][name] for name in names})
        assert last(monitor)[f"grad_norm/{layer}"] == pytest.approx(expected, rel=1e-6)


def test_include_exclude_and_top_k_choose_layers_and_leave_the_total():
    spy = GradientSpy()
    monitor = GradientMonitor(include=r"^net\.", exclude="bias", top_k=2)
    fit(Regression(), spy, monitor)
    norms = {name: reference_norm({name: g}) for name, g in spy.before[-1].items() if "bias" not in name}
    top = sorted(norms, key=norms.get)[-2:]
    assert set(last(monitor)) == {"grad_norm/total", *(f"grad_norm/{name}" for name in top)}
    assert last(monitor)["grad_norm/total"] == pytest.approx(reference_norm(spy.before[-1]), rel=1e-6)
    totals = GradientMonitor(top_k=0)
    fit(Regression(), totals)
    assert set(last(totals)) == {"grad_norm/total"}


def test_tensorboard_and_csv_hold_the_history_under_lightnings_steps(tmp_path):
    class Logged(Regression):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.log("loss", loss)
            return loss

    board, csv_logger = TensorBoardLogger(tmp_path, "board"), CSVLogger(tmp_path, "csv")
    monitor = GradientMonitor(2)
    fit(
        Logged(),
        monitor,
        logger=[board, csv_logger],
        log_every_n_steps=2,
        accumulate_grad_batches=2,
        max_epochs=2,
    )
    events = EventAccumulator(board.log_dir)
    events.Reload()
    assert set(monitor.history[0].values) <= set(events.Tags()["scalars"])
    for key in monitor.history[0].values:
        read = [(event.step, event.value) for event in events.Scalars(key)]
        assert read == [(record.step, pytest.approx(record.values[key])) for record in monitor.history]
    assert [event.step for event in events.Scalars("loss")] == [record.step for record in monitor.history]
    with open(f"{csv_logger.log_dir}/metrics.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["grad_norm/total"]]
    assert [(int(row["step"]), float(row["grad_norm/total"])) for row in rows] == [
        (record.step, record.values["grad_norm/total"]) for record in monitor.history
    ]


def test_totals_reach_callback_metrics_and_on_request_the_progress_bar():
    shown = {}

    class Watcher(GradientSpy):
        def on_train_end(self, trainer, pl_module):
            shown.update(trainer.progress_bar_metrics)

    monitor = GradientMonitor(progress_bar=True)
    run = fit(Regression(), monitor, Watcher())
    total = last(monitor)["grad_norm/total"]
    assert set(run.callback_metrics) == {"grad_norm/total"}
    assert run.callback_metrics["grad_norm/total"].item() == pytest.approx(total)
    assert shown == {"grad_norm": pytest.approx(total)}
    assert fit(Regression(), GradientMonitor()).progress_bar_metrics == {}


def test_history_is_bounded_and_flushed_in_groups():
    monitor = GradientMonitor(history_size=3, logs_per_flush=4)
    lengths = []

    class Watcher(GradientSpy):
        def on_train_batch_end(self, *args):
            lengths.append(len(monitor.history))

    fit(Regression(), monitor, Watcher())
    assert lengths == [0, 0, 0, 3, 3, 3]  # 4 records came at the fourth step, 3 are kept
    assert [record.step for record in monitor.history] == [3, 4, 5]


def test_weights_are_the_same_bit_by_bit_without_it():
    def weights(*callbacks):
        torch.manual_seed(3)
        module = Regression(net=lambda: torch.nn.Sequential(mlp(), torch.nn.Dropout(0.0)))
        fit(module, *callbacks, gradient_clip_val=0.1, accumulate_grad_batches=2)
        return module.state_dict()

    with_it, without = weights(GradientMonitor()), weights()
    assert all(torch.equal(with_it[key], without[key]) for key in without)


def test_what_led_up_to_a_crash_is_kept():
    class Crashes(Regression):
        def training_step(self, batch, batch_idx):
            if batch_idx == 3:
                raise RuntimeError("crash")
            return super().training_step(batch, batch_idx)

    monitor = GradientMonitor(logs_per_flush=100)
    with pytest.raises(RuntimeError, match="crash"):
        fit(Crashes(), monitor)
    assert [record.step for record in monitor.history] == [0, 1, 2]


class Snapshots(GradientSpy):
    """Keeps the weights before every step and after it."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        super().on_before_optimizer_step(trainer, pl_module, optimizer)
        self.old = {name: p.detach().double().clone() for name, p in pl_module.named_parameters()}

    def on_train_batch_end(self, trainer, pl_module, *args):
        new = {name: p.detach().double().clone() for name, p in pl_module.named_parameters()}
        self.weights.append((self.old, new))


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD, torch.optim.LBFGS])
def test_weight_norm_and_update_ratio_are_of_the_actual_change(optimizer):
    spy, monitor = Snapshots(), GradientMonitor(weight_norm=True, update_ratio=True)
    fit(Regression(optimizer=optimizer), spy, monitor)
    for record, (old, new) in zip(monitor.history, spy.weights, strict=True):
        change = {name: new[name] - old[name] for name in old}
        assert record.values["weight_norm/total"] == pytest.approx(reference_norm(old), rel=1e-6)
        assert record.values["update_ratio/total"] == pytest.approx(
            reference_norm(change) / reference_norm(old), rel=1e-3
        )
        for name in old:
            ratio = reference_norm({name: change[name]}) / reference_norm({name: old[name]})
            assert record.values[f"update_ratio/{name}"] == pytest.approx(ratio, rel=1e-2, abs=1e-7)


def test_there_is_no_ratio_to_weights_that_are_zero():
    module = Regression()
    torch.nn.init.zeros_(module.net[0].bias)
    monitor = GradientMonitor(update_ratio=True)
    fit(module, monitor)
    assert "update_ratio/net.0.bias" not in monitor.history[0].values
    assert "update_ratio/net.0.bias" in last(monitor)


@pytest.mark.parametrize("every", [1, 3])
def test_cosine_is_between_successive_steps(every):
    spy, monitor = GradientSpy(), GradientMonitor(every, cosine=True, norm_type=1)
    fit(Regression(), spy, monitor)
    assert "grad_cosine/total" in last(monitor)
    assert ("grad_cosine/total" in monitor.history[0].values) == (every > 1)
    for record in list(monitor.history)[int(every == 1) :]:
        now, before = spy.before[record.step], spy.before[record.step - 1]
        for key, names in {"total": list(now), "net.2.weight": ["net.2.weight"]}.items():
            a, b = (torch.cat([gradients[name].reshape(-1) for name in names]) for gradients in (now, before))
            expected = float(a @ b / (a.norm() * b.norm()))
            assert record.values[f"grad_cosine/{key}"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("p", [1, 2])
def test_noise_scale_from_accumulation_equals_the_formula_by_hand(p):
    data, monitor = batches(8), GradientMonitor(noise_scale=True, norm_type=p)
    module = Regression(optimizer=torch.optim.SGD, lr=0.0)  # weights stay, so the test can compute all gradients
    fit(module, monitor, data=data, accumulate_grad_batches=3)

    def gradient(*some):
        x, y = (torch.cat(part) for part in zip(*some, strict=True))
        grads = torch.autograd.grad((module.net(x) - y).square().mean(), module.parameters())
        return torch.cat([grad.double().reshape(-1) for grad in grads])

    signals, noises = [], []
    for window in (data[:3], data[3:6]):
        small = sum(float(gradient(batch).square().sum()) for batch in window) / 3
        big = float(gradient(*window).square().sum())
        signals.append((24 * big - 8 * small) / 16)
        noises.append((small - big) / (1 / 8 - 1 / 24))

    def average(terms):  # weights 0.05 · 0.95 and 0.05
        return (0.95 * terms[0] + terms[1]) / 1.95

    values = monitor.history[1].values
    assert values["grad_noise/signal"] == pytest.approx(average(signals), rel=1e-4)
    assert values["grad_noise/trace"] == pytest.approx(average(noises), rel=1e-4)
    if average(signals) > 0:
        assert values["grad_noise/scale"] == pytest.approx(average(noises) / average(signals), rel=1e-4)
    assert "grad_noise/signal" not in monitor.history[2].values, "the tail window has two of three micro-batches"


def test_noise_scale_says_so_when_there_is_nothing_to_compare():
    with pytest.warns(UserWarning, match=r"noise_scale=True\): not measured, it needs accumulate") as caught:
        fit(Regression(), GradientMonitor(noise_scale=True))
    assert len([each for each in caught if "noise_scale" in str(each.message)]) == 1


def test_no_hook_and_no_copy_outlives_its_step():
    module = Regression()
    monitor = GradientMonitor(2, noise_scale=True, update_ratio=True, cosine=True)
    fit(module, monitor, accumulate_grad_batches=2)
    assert not any(parameter._backward_hooks for parameter in module.parameters())
    assert not monitor._watched
    assert not monitor._pending


def test_histograms_reach_tensorboard(tmp_path):
    spy, board = GradientSpy(), TensorBoardLogger(tmp_path)
    fit(Regression(), spy, GradientMonitor(histograms=True, exclude="bias"), logger=board)
    events = EventAccumulator(board.log_dir, {"histograms": 0})
    events.Reload()
    weights = [name for name in spy.before[0] if "bias" not in name]
    assert set(events.Tags()["histograms"]) == {f"grad_histogram/{name}" for name in weights}
    for step, event in enumerate(events.Histograms("grad_histogram/net.2.weight")):
        gradient = spy.before[step]["net.2.weight"]
        assert (event.step, event.histogram_value.num) == (step, gradient.numel())
        assert event.histogram_value.min == pytest.approx(gradient.min().item())
        assert event.histogram_value.sum_squares == pytest.approx(gradient.square().sum().item(), rel=1e-5)


def test_at_the_end_every_layer_and_no_total_is_drawn_over_depth(tmp_path, monkeypatch):
    drawn = []

    def spied(steps, norms):
        drawn.append((steps, norms))
        return norms_over_depth(steps, norms)

    monkeypatch.setattr(gradient_monitor, "norms_over_depth", spied)
    net = torch.nn.Sequential(OrderedDict(totalizer=torch.nn.Linear(4, 4), last=torch.nn.Linear(4, 1)))
    monitor, board = GradientMonitor(group_by=r"net\.(\w+)", prefix="mine/"), TensorBoardLogger(tmp_path)
    fit(Regression(lambda: net), monitor, logger=board)
    events = EventAccumulator(board.log_dir)
    events.Reload()
    assert events.Tags()["images"] == ["mine/grad_norm/over_depth"]
    ((steps, norms),) = drawn
    assert steps == [record.step for record in monitor.history]
    for found, record in zip(norms, monitor.history, strict=True):
        assert found == {layer: record.values[f"mine/grad_norm/{layer}"] for layer in ("totalizer", "last")}


def test_the_trainers_clipping_has_a_coefficient_and_a_rate():
    spy, monitor, limit = GradientSpy(), GradientMonitor(), 0.5
    fit(Regression(optimizer=torch.optim.SGD, lr=0.0), spy, monitor, gradient_clip_val=limit)
    clipped = [reference_norm(gradients) > limit for gradients in spy.before]
    assert 0 < sum(clipped) < len(clipped), "the limit must tell steps apart"
    assert last(monitor)["clip/rate"] == sum(clipped) / len(clipped)
    for record, gradients in zip(monitor.history, spy.before, strict=True):
        expected = min(1, limit / (reference_norm(gradients) + 1e-6))
        assert record.values["clip/coefficient"] == pytest.approx(expected, rel=1e-5)


def test_everything_at_once_changes_no_bit():
    def weights(*callbacks):
        torch.manual_seed(3)
        module = Regression()
        fit(module, *callbacks, accumulate_grad_batches=2)
        return module.state_dict()

    everything = GradientMonitor(weight_norm=True, update_ratio=True, cosine=True, noise_scale=True, histograms=True)
    with_it, without = weights(everything), weights()
    assert everything.failure is None
    assert all(torch.equal(with_it[key], without[key]) for key in without)


def test_state_is_plain_and_survives():
    monitor = GradientMonitor(noise_scale=True)
    fit(Regression(), monitor, accumulate_grad_batches=2, gradient_clip_val=0.1)
    state = monitor.state_dict()
    assert state["clipped"] == [True] * 3
    assert state["noise"]["weight"] > 0
    again = GradientMonitor(5, norm_type=1)
    again.load_state_dict(state)
    assert again.state_dict() == state
    assert again.state_key == monitor.state_key != GradientMonitor(prefix="other/").state_key


class Bag(torch.nn.Module):
    """A sparse embedding, a tied weight, a parameter without a gradient and an empty one."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(10, 4, sparse=True)
        self.first = self.tied = torch.nn.Linear(4, 4)
        self.last = torch.nn.Linear(4, 1)
        self.unused = torch.nn.Parameter(torch.ones(3))
        self.empty = torch.nn.Parameter(torch.zeros(0))

    def forward(self, x):
        rows = self.table(x.abs().long().clamp(max=9)).sum(1)
        return self.last(self.tied(self.first(x.to(rows.dtype) + rows).tanh())) + self.empty.sum()


class ComplexNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.rotation = torch.nn.Parameter(torch.randn(4, 1, dtype=torch.complex64))
        self.scale = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, x):
        return ((x.to(torch.complex64) @ self.rotation).abs() * self.scale).float()


class Bf16(Regression):
    def training_step(self, batch, batch_idx):
        return super().training_step([part.bfloat16() for part in batch], batch_idx)


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (lambda: Regression(Bag, torch.optim.SGD), {}),
        (lambda: Regression(Bag, torch.optim.SGD), {"accumulate_grad_batches": 4}),
        (lambda: Regression(ComplexNet, torch.optim.SGD), {}),
        (lambda: Bf16(lambda: mlp().bfloat16(), torch.optim.SGD), {}),
        (lambda: Regression(mlp, torch.optim.AdamW, fused=True), {}),
        (lambda: Regression(mlp, torch.optim.LBFGS, lr=1e-2, max_iter=3), {}),
        (lambda: Regression(), {"precision": "bf16-mixed"}),
    ],
    ids=[
        "sparse, tied, None, empty",
        "the same, accumulated",
        "complex",
        "bf16",
        "fused",
        "LBFGS",
        "autocast",
    ],
)
def test_every_kind_of_gradient_equals_float64_and_no_weight_changes(make, settings):
    def run(*callbacks):
        torch.manual_seed(3)
        module = make()
        fit(module, *callbacks, **settings)
        return module.state_dict()

    spy = GradientSpy()
    monitor = GradientMonitor(weight_norm=True, update_ratio=True, cosine=True)
    with_it, without = run(spy, monitor), run()
    assert monitor.failure is None
    assert all(torch.equal(with_it[key], without[key]) for key in without)
    latest = spy.before if len(spy.before) == len(monitor.history) else spy.before[-1:]
    for record, gradients in zip(list(monitor.history)[-len(latest) :], latest, strict=True):
        assert record.values["grad_norm/total"] == pytest.approx(complex_norm(gradients), rel=1e-6)
        for name, gradient in gradients.items():
            expected = pytest.approx(complex_norm({name: gradient}), rel=1e-6)
            assert record.values[f"grad_norm/{name}"] == expected
        assert "grad_norm/net.unused" not in record.values


def complex_norm(gradients):
    return math.sqrt(sum(float(gradient.abs().square().sum()) for gradient in gradients.values()))


def test_two_optimizers_are_kept_apart():
    class Two(Regression):
        def __init__(self):
            super().__init__()
            self.other, self.automatic_optimization = mlp(), False

        def training_step(self, batch, batch_idx):
            x, y = batch
            for optimizer, net in zip(self.optimizers(), (self.net, self.other), strict=True):
                optimizer.zero_grad()
                self.manual_backward((net(x) - y).square().mean())
                optimizer.step()

        def configure_optimizers(self):
            return [torch.optim.SGD(net.parameters(), lr=0.1) for net in (self.net, self.other)]

    spy, monitor = GradientSpy(), GradientMonitor()
    fit(Two(), monitor, spy, max_steps=2)
    after_both = spy.after[0]
    for index, part in enumerate(("net", "other")):
        mine = {name: g for name, g in after_both.items() if name.startswith(part)}
        values = {k: v for k, v in monitor.history[0].values.items() if k.endswith(f"/optimizer_{index}")}
        assert values[f"grad_norm/total/optimizer_{index}"] == pytest.approx(reference_norm(mine), rel=1e-6)
        assert len(values) == len(mine) + 1


def test_a_failing_monitor_warns_once_by_name_and_steps_aside():
    class Broken(GradientMonitor):
        def _flush(self, trainer):
            raise OSError("disk full")

    monitor = Broken()
    module, untouched = Regression(), Regression()
    untouched.load_state_dict(module.state_dict())
    with pytest.warns(UserWarning, match=r"Broken is off .*: OSError in on_train_batch_end: disk full") as caught:
        fit(module, monitor)
    assert len([warning for warning in caught if "Broken" in str(warning.message)]) == 1
    fit(untouched)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), untouched.parameters(), strict=True))


@pytest.mark.parametrize(
    "wrong",
    [
        {"log_every_n_steps": 0},
        {"norm_type": 3},
        {"top_k": -1},
        {"include": "("},
        {"group_by": "["},
        {"history_size": 1.5},
        {"logs_per_flush": 0},
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_by_name(wrong):
    with pytest.raises(ArgumentError, match=f"^{next(iter(wrong))}="):
        GradientMonitor(**wrong)
