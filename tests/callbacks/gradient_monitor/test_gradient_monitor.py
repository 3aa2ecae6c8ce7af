import csv
import math
import statistics
import warnings
from collections import OrderedDict, deque
from contextlib import nullcontext

import pytest
import torch
from helpers.runs import GradientSpy, Regression, batches, fit, mlp, reference_norm, trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_gradtools._lightning import fail_safe
from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.callbacks import GradientClipping, GradientMonitor
from lightning_gradtools.callbacks.gradient_monitor.measurements import Measurement, PerLayer
from lightning_gradtools.reporting.loggers import LoggerAdapter


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


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
    assert set(run.callback_metrics) == {"grad_norm/total", "val/loss"}
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
    monitor = GradientMonitor(logs_per_flush=100)
    with pytest.raises(RuntimeError, match="crash"):
        fit(Crashes(), monitor)
    assert [record.step for record in monitor.history] == [0, 1, 2]


class Snapshots(GradientSpy):
    """Keeps the weights before every step and after it."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.old = {name: p.detach().double().clone() for name, p in pl_module.named_parameters()}

    def on_train_batch_end(self, trainer, pl_module, *args):
        new = {name: p.detach().double().clone() for name, p in pl_module.named_parameters()}
        self.weights.append((self.old, new))


class Sharpness(torch.optim.SGD):
    """SAM (Foret et al. 2021): the gradient of the step is that a little uphill, so the closure is called twice."""

    def step(self, closure):
        with torch.enable_grad():
            loss = closure()
        with torch.no_grad():
            parameters = [p for group in self.param_groups for p in group["params"]]
            uphill = [0.5 * p.grad / (reference_norm({"": p.grad}) + 1e-12) for p in parameters]
            for parameter, e in zip(parameters, uphill, strict=True):
                parameter.add_(e)
            with torch.enable_grad():
                closure()
            for parameter, e in zip(parameters, uphill, strict=True):
                parameter.sub_(e)
        super().step()
        return loss


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD, torch.optim.LBFGS, Sharpness])
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


def held_tensors(thing, seen=None):
    """Tensors of more than one element that an object of ours leads to, whatever its attributes are called."""
    seen = {} if seen is None else seen
    if id(thing) in seen:
        return []
    seen[id(thing)] = thing
    if isinstance(thing, torch.Tensor):
        return [thing] if thing.numel() > 1 else []
    if isinstance(thing, dict):
        parts = list(thing.values())
    elif isinstance(thing, (list, tuple, set, deque)):
        parts = list(thing)
    else:
        parts = [vars(thing)] if type(thing).__module__.startswith("lightning_gradtools") and vars(thing) else []
    return [tensor for part in parts for tensor in held_tensors(part, seen)]


class Crashes(Regression):
    def training_step(self, batch, batch_idx):
        if batch_idx == 3:
            raise RuntimeError("crash")
        return super().training_step(batch, batch_idx)


class SkipsTheRest(Regression):
    def on_train_batch_start(self, batch, batch_idx):
        return -1 if batch_idx == 3 else None


@pytest.mark.parametrize("module_type", [Regression, Crashes, SkipsTheRest])
def test_no_hook_and_no_copy_outlives_the_fit_however_it_ends(module_type):
    module = module_type()
    monitor = GradientMonitor(1, noise_scale=True, weight_norm=True, update_ratio=True, cosine=True, logs_per_flush=100)
    held = []

    class Watcher(GradientSpy):
        def on_train_batch_end(self, *args):
            held.append(len(held_tensors(monitor)))

    with pytest.raises(RuntimeError, match="crash") if module_type is Crashes else nullcontext():
        fit(module, Watcher(), monitor, accumulate_grad_batches=2)
    assert not any(parameter._backward_hooks for parameter in module.parameters())
    assert max(held) > 0, "the helper must see what is held between two steps"
    assert held_tensors(monitor) == []


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


class KeepsFigures(CSVLogger):
    """A logger that can show figures: it keeps the axes of each by its tag and step."""

    def __init__(self, folder):
        super().__init__(folder)
        self.axes = {}


class KeepsFiguresAdapter(LoggerAdapter):
    logger_class = "KeepsFigures"

    def figure(self, tag, draw, step):
        self.logger.axes[tag, step] = draw().axes[0]


def drawn_layers(axes):
    return [label.get_text() for label in axes.get_xticklabels()]


def test_at_the_end_every_layer_and_no_total_is_drawn_over_depth(tmp_path):
    net = torch.nn.Sequential(OrderedDict(totalizer=torch.nn.Linear(4, 4), last=torch.nn.Linear(4, 1)))
    monitor = GradientMonitor(1, group_by=r"net\.(\w+)", prefix="mine/")
    board, figures = TensorBoardLogger(tmp_path), KeepsFigures(tmp_path)
    fit(Regression(lambda: net), monitor, logger=[board, figures])
    events = EventAccumulator(board.log_dir)
    events.Reload()
    assert events.Tags()["images"] == ["mine/grad_norm/over_depth"]
    assert [event.step for event in events.Images("mine/grad_norm/over_depth")] == [5]
    axes = figures.axes["mine/grad_norm/over_depth", 5]
    assert drawn_layers(axes) == ["totalizer", "last"]
    assert [line.get_label() for line in axes.lines] == [f"step {record.step}" for record in monitor.history]
    for line, record in zip(axes.lines, monitor.history, strict=True):
        norms = [record.values[f"mine/grad_norm/{layer}"] for layer in ("totalizer", "last")]
        assert line.get_ydata() == pytest.approx(norms)


class DecaysWeightsOnly(Regression):
    """Two groups, as for AdamW: what decays and what does not, which tears layers apart."""

    def configure_optimizers(self):
        parameters = dict(self.named_parameters())
        groups = [[p for name, p in parameters.items() if end in name] for end in ("bias", "weight")]
        return torch.optim.AdamW([{"params": group} for group in groups], lr=1e-2)


@pytest.mark.parametrize("top_k", [None, 3])
def test_layers_are_listed_as_the_module_defines_them_whatever_groups_the_optimizer_has(tmp_path, top_k):
    spy, monitor, figures = GradientSpy(), GradientMonitor(1, top_k=top_k), KeepsFigures(tmp_path)
    module = DecaysWeightsOnly()
    fit(module, spy, monitor, logger=figures)
    shown = {key.removeprefix("grad_norm/") for record in monitor.history for key in record.values} - {"total"}
    in_depth = [name for name, _ in module.named_parameters() if name in shown]
    assert drawn_layers(figures.axes["grad_norm/over_depth", 5]) == in_depth
    assert [line.split()[0] for line in monitor.table().splitlines()[1:]] == in_depth
    assert (top_k is None) == (len(in_depth) == 6)
    for record, gradients in zip(monitor.history, spy.before, strict=True):
        for key in record.values.keys() - {"grad_norm/total"}:
            name = key.removeprefix("grad_norm/")
            assert record.values[key] == pytest.approx(reference_norm({name: gradients[name]}), rel=1e-6)


def test_a_layer_called_total_does_not_take_the_place_of_the_total():
    net = torch.nn.Sequential(OrderedDict(total=torch.nn.Linear(4, 4), total_=torch.nn.Linear(4, 1)))
    spy, monitor = GradientSpy(), GradientMonitor(1, group_by=r"net\.(\w+)", weight_norm=True)
    fit(Regression(lambda: net), spy, monitor)
    for record, gradients in zip(monitor.history, spy.before, strict=True):
        by_layer = {
            layer: {name: g for name, g in gradients.items() if name.startswith(f"net.{layer}.")}
            for layer in ("total", "total_")
        }
        expected = {"total": gradients, "total__": by_layer["total"], "total_": by_layer["total_"]}
        found = {key.removeprefix("grad_norm/"): v for key, v in record.values.items() if key.startswith("grad_norm/")}
        assert found == {key: pytest.approx(reference_norm(some), rel=1e-6) for key, some in expected.items()}


@pytest.mark.parametrize("name", ["total", "total/optimizer_0", "over_depth"])
def test_no_layers_name_is_taken_for_something_else_in_keys_report_table_and_figure(name, tmp_path):
    net = torch.nn.Sequential(OrderedDict({name: torch.nn.Linear(4, 4), "last": torch.nn.Linear(4, 1)}))
    spy, figures = GradientSpy(), KeepsFigures(tmp_path)
    options = {"weight_norm": True, "update_ratio": True, "cosine": True}
    monitor = GradientMonitor(1, group_by=r"net\.([\w/]+)", **options)
    fit(Regression(lambda: net, optimizer=torch.optim.SGD), spy, monitor, logger=figures)
    head, slash, tail = name.partition("/")
    shown = f"{head}_{slash}{tail}"
    for record, gradients in zip(monitor.history, spy.before, strict=True):
        own = {each: gradient for each, gradient in gradients.items() if f".{name}." in each}
        assert record.values["grad_norm/total"] == pytest.approx(reference_norm(gradients), rel=1e-6)
        assert record.values[f"grad_norm/{shown}"] == pytest.approx(reference_norm(own), rel=1e-6)
        for quantity in options:
            quantity = quantity.replace("cosine", "grad_cosine")
            keys = {key for key in record.values if key.startswith(f"{quantity}/")}
            assert keys in (set(), {f"{quantity}/{each}" for each in ("total", shown, "last")})
    assert [line.split()[0] for line in monitor.table().splitlines()[1:]] == [shown, "last"]
    assert drawn_layers(figures.axes["grad_norm/over_depth", 5]) == [shown, "last"]
    assert monitor.report().count("median") == 1, "there is one total"


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
    monitor = GradientMonitor(1, noise_scale=True)
    fit(Regression(), monitor, accumulate_grad_batches=2, gradient_clip_val=0.1)
    state = monitor.state_dict()
    assert set(state) == {"version", "noise", "clipped", "cosine"}
    assert state["clipped"] == [True] * 3
    assert state["noise"]["weight"] > 0
    again = GradientMonitor(5, norm_type=1)
    again.load_state_dict(state)
    again.load_state_dict(state)
    assert again.state_dict() == state
    assert again.state_key == monitor.state_key != GradientMonitor(prefix="other/").state_key


def test_of_another_versions_state_what_is_known_is_kept_and_the_rest_is_said_once():
    monitor = GradientMonitor()
    with pytest.warns(UserWarning, match=r"'noise' is missing, 'temperature' is unknown; the rest") as caught:
        monitor.load_state_dict({"clipped": [True, False], "temperature": 3})
    assert len(caught) == 1
    assert monitor.state_dict()["clipped"] == [True, False]
    with pytest.warns(UserWarning, match="'clipped' cannot be read .*'noise' cannot be read"):
        monitor.load_state_dict({"version": 9, "clipped": None, "noise": {"signal": 1.0, "colour": "red"}})
    assert monitor.state_dict()["clipped"] == [True, False]


def test_a_run_with_the_same_optimizer_object_has_its_own_norms():
    module = Regression()
    module.kept = torch.optim.SGD(module.parameters(), lr=1e-4)
    module.configure_optimizers = lambda: module.kept
    spy, monitor = GradientSpy(), GradientMonitor(1)
    fit(module, monitor, data=batches(1))
    fit(module, spy, monitor, data=batches(1, scale=100.0))
    totals = [record.values["grad_norm/total"] for record in monitor.history]
    assert totals == pytest.approx([reference_norm(gradients) for gradients in spy.before], rel=1e-6)


def test_the_same_monitor_starts_anew_with_another_model():
    def settings():
        return {"accumulate_grad_batches": 2, "gradient_clip_val": 1.0}

    used, fresh = (GradientMonitor(1, noise_scale=True, cosine=True, update_ratio=True) for _ in range(2))
    fit(Regression(), used, data=batches(6, scale=1000.0), **settings())
    for monitor in (used, fresh):
        torch.manual_seed(1)
        fit(Regression(mlp), monitor, **settings())
    assert [vars(record) for record in used.history] == [vars(record) for record in fresh.history]
    assert used.state_dict() == fresh.state_dict()


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


class Held:
    """A batch in which nobody finds its size."""

    def __init__(self, pairs):
        self.x, self.y = (torch.stack(part) for part in zip(*pairs, strict=True))


class Unsized(Regression):
    """Has batches of no known size: the tensors stay with the module."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batches()[batch_idx], batch_idx)


@pytest.mark.parametrize(
    "collate",
    [Held, lambda _: {"text": ["a", "b"]}, lambda pairs: map(torch.stack, zip(*pairs, strict=True))],
    ids=["of a class", "of strings", "an iterator"],
)
def test_without_a_batch_size_only_the_noise_scale_is_lost(collate):
    seen = []

    class Looks(Unsized):
        def training_step(self, batch, batch_idx):
            if isinstance(batch, map):
                seen.append(len(list(batch)))
            return super().training_step(batch, batch_idx)

    x, y = (torch.cat(part) for part in zip(*batches(), strict=True))
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8, collate_fn=collate)
    monitor = GradientMonitor(1, noise_scale=True)
    with pytest.warns(UserWarning, match=r"noise_scale=True\): not measured, the batch size is not known") as caught:
        trainer(monitor, accumulate_grad_batches=2).fit(Looks(), data)
    assert len([each for each in caught if "noise_scale" in str(each.message)]) == 1
    assert monitor.failure is None
    assert [record.step for record in monitor.history] == [0, 1, 2]
    assert all("grad_norm/total" in record.values for record in monitor.history)
    assert not [key for key in last(monitor) if "noise" in key]
    assert seen in ([], [2] * 6), "looking for the size must not take parts of the batch"


class Manual(Regression):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


@pytest.mark.parametrize(
    ("make", "settings", "why"),
    [
        (Manual, {}, "under manual optimization"),
        (lambda: Regression(optimizer=torch.optim.LBFGS), {"accumulate_grad_batches": 2}, "LBFGS differentiates the"),
    ],
    ids=["by hand", "LBFGS"],
)
def test_where_steps_hide_their_micro_batches_only_the_noise_scale_is_lost(make, settings, why):
    monitor = GradientMonitor(1, noise_scale=True)
    with pytest.warns(UserWarning, match=rf"noise_scale=True\): not measured, {why}") as caught:
        fit(make(), monitor, **settings)
    assert len([each for each in caught if "noise_scale" in str(each.message)]) == 1
    assert monitor.failure is None
    assert "grad_norm/total" in last(monitor)
    assert not [key for key in last(monitor) if "noise" in key]


def test_whichever_part_of_the_noise_scale_fails_the_norms_go_on(monkeypatch):
    calls, failing, attempt = [], None, fail_safe.attempt

    def spied(name, where, function, *args, **kwargs):
        if "noise_scale" in name:
            calls.append(where)
            if where == failing:
                raise OSError("no space left")
        return attempt(name, where, function, *args, **kwargs)

    monkeypatch.setattr(fail_safe, "attempt", spied)
    healthy = GradientMonitor(1, noise_scale=True)
    weights, said = weights_and_warnings(healthy)
    assert said == []
    places = sorted(set(calls))
    assert "_look" in places
    norms = [{key: v for key, v in record.values.items() if "noise" not in key} for record in healthy.history]
    for failing in places:
        monitor = GradientMonitor(1, noise_scale=True)
        same, said = weights_and_warnings(monitor)
        assert torch.equal(same, weights), failing
        (warning,) = said
        assert warning.startswith("GradientMonitor(noise_scale=True) is off for the rest of this run"), failing
        assert monitor.failure is None, failing
        assert [record.values for record in monitor.history] == norms, failing


def test_derivatives_inside_the_loss_are_no_part_of_the_noise_scale():
    class Differentiates(Regression):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            torch.autograd.grad(100 * loss, list(self.parameters()), create_graph=True)  # calls hooks of parameters
            return loss

    found = []
    for module_type in (Regression, Differentiates):
        torch.manual_seed(0)
        monitor = GradientMonitor(1, noise_scale=True)
        fit(module_type(), monitor, accumulate_grad_batches=2)
        found.append([dict(record.values) for record in monitor.history])
    assert "grad_noise/signal" in found[0][-1]
    assert found[0] == found[1]


class LargestEntry(Measurement):
    """What a user may write: the largest entry of each gradient, of all, and how often it grew."""

    def __init__(self):
        self.grew, self.latest = 0, 0.0

    def before_step(self, context):
        return {"largest": torch.stack([gradient.abs().max() for gradient in context.norms.gradients()])}

    def scalars(self, found, step):
        largest = found["largest"]
        self.grew += max(largest) > self.latest
        self.latest = max(largest)
        layers = [max(largest[2 * layer : 2 * layer + 2]) for layer in range(len(step.layers.names))]
        return {"largest_entry": PerLayer(total=self.latest, layers=layers), "steps/grew": float(self.grew)}

    def reset(self):
        self.grew, self.latest = 0, 0.0

    def state_dict(self):
        return {"grew": self.grew, "latest": self.latest}

    def load_state_dict(self, state):
        self.grew, self.latest = state["grew"], state["latest"]


def test_a_measurement_of_the_users_is_one_class():
    spy, own = GradientSpy(), LargestEntry()
    monitor = GradientMonitor(1, group_by="module", prefix="my/", measurements=[own, LargestEntry()], logs_per_flush=4)
    run = fit(Regression(), spy, monitor)
    grew = before = 0
    for record, gradients in zip(monitor.history, spy.before, strict=True):
        largest = {name: float(g.abs().max()) for name, g in gradients.items()}
        grew, before = grew + (max(largest.values()) > before), max(largest.values())
        assert record.values["my/largest_entry/total"] == pytest.approx(before)
        assert record.values["my/steps/grew"] == grew
        for layer in ("net.0", "net.2", "net.4"):
            expected = max(largest[f"{layer}.weight"], largest[f"{layer}.bias"])
            assert record.values[f"my/largest_entry/{layer}"] == pytest.approx(expected)
    assert run.callback_metrics["my/steps/grew"] == grew
    state = monitor.state_dict()
    assert state["measurements"] == {"0": own.state_dict(), "1": own.state_dict()}
    again = GradientMonitor(measurements=[LargestEntry(), LargestEntry()])
    again.load_state_dict(state)
    assert again.state_dict() == state
    fit(Regression(), monitor)
    assert monitor.history[0].values["my/steps/grew"] == 1, "another run begins anew"


def weights_and_warnings(*callbacks, **settings):
    torch.manual_seed(3)
    module = Regression()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(module, *callbacks, accumulate_grad_batches=2, gradient_clip_val=0.1, **settings)
    weights = torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])
    assert not any(parameter._backward_hooks for parameter in module.parameters())
    return weights, [str(each.message) for each in caught if "GradientMonitor" in str(each.message)]


def everything():
    return GradientMonitor(
        1, weight_norm=True, update_ratio=True, cosine=True, noise_scale=True, histograms=True, progress_bar=True
    )


def test_whichever_guarded_call_fails_training_goes_on_to_the_same_weights_and_one_warning_says_so(monkeypatch):
    calls, failing = [], None
    attempt = fail_safe.attempt

    def spied(name, where, function, *args, **kwargs):
        if name == "GradientMonitor":
            calls.append(where)
            if where == failing:
                raise OSError("no space left")
        return attempt(name, where, function, *args, **kwargs)

    without, _ = weights_and_warnings()
    monkeypatch.setattr(fail_safe, "attempt", spied)  # what is guarded is called there, and nowhere else
    assert weights_and_warnings(everything())[1] == []
    places = sorted(set(calls))
    assert {"on_before_optimizer_step", "on_fit_end", "UpdateRatio.after_step"} <= set(places)
    for failing in places:
        monitor = everything()
        weights, said = weights_and_warnings(monitor)
        assert torch.equal(weights, without), failing
        assert "no space left" in monitor.failure, failing
        assert "GradientMonitor is off for the rest of this run" in said[0], failing
        assert said[1:] == ([] if failing != "release" else said[1:2]), failing


def test_a_failing_measurement_disables_the_monitor_and_the_warning_names_both():
    class Broken(LargestEntry):
        def scalars(self, found, step):
            raise OSError("disk full")

    monitor = GradientMonitor(1, measurements=[Broken()])
    weights, said = weights_and_warnings(monitor)
    assert torch.equal(weights, weights_and_warnings()[0])
    (warning,) = said
    assert warning.startswith("GradientMonitor is off")
    assert "OSError" in warning
    assert "disk full" in warning
    assert len(monitor.history) == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"log_every_n_steps": 0}, "log_every_n_steps=0: must be an integer >= 1"),
        ({"norm_type": 3}, "norm_type=3: must be 1, 2 or 'inf'"),
        ({"norm_type": "max"}, "norm_type='max': must be 1, 2 or 'inf'"),
        ({"top_k": -1}, "top_k=-1: must be an integer >= 0"),
        ({"include": "("}, "include=['\"]\\(['\"].*: must be regular expressions"),
        ({"include": 3}, "include=3: must be a regular expression or a list of them"),
        ({"exclude": ["bias", None]}, r"exclude=\['bias', None\]: must be a regular expression or a list of them"),
        ({"group_by": "["}, "group_by='\\[': must be regular expressions"),
        ({"group_by": None}, "group_by=None: must be 'parameter', 'module' or a regular expression"),
        ({"history_size": 1.5}, "history_size=1.5: must be an integer"),
        ({"logs_per_flush": 0}, "logs_per_flush=0: must be an integer >= 1"),
        ({"prefix": None}, "prefix=None: must be a string"),
        ({"measurements": [3]}, r"measurements=\[3\]: must be a list of Measurement"),
        *(
            ({name: "no"}, f"{name}='no': must be True or False")
            for name in ("progress_bar", "weight_norm", "update_ratio", "cosine", "noise_scale", "histograms")
        ),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_by_name(wrong, message):
    with pytest.raises(ArgumentError, match=f"^{message}"):
        GradientMonitor(**wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"include": "nothing_matches"}, "include='nothing_matches': must be found in the name of a parameter"),
        ({"exclude": ".*"}, r"exclude='\.\*': must leave a parameter to report"),
        ({"include": "weight", "exclude": ["w", "x"]}, r"exclude=\['w', 'x'\]: must leave"),
        ({"group_by": "modul"}, r"group_by='modul': must be 'parameter', .*net\.0\.weight.*did you mean 'module'"),
    ],
    ids=str,
)
def test_patterns_that_fit_no_parameter_are_refused_when_the_fit_starts(wrong, message):
    with pytest.raises(ArgumentError, match=f"^{message}") as error:
        fit(Regression(), GradientMonitor(**wrong))
    assert "\n" not in str(error.value)


def test_a_monitor_shows_how_it_was_made():
    assert repr(GradientMonitor()) == "GradientMonitor()"
    assert repr(GradientMonitor(include=[], norm_type=2)) == "GradientMonitor()"
    shown = repr(GradientMonitor(5, group_by="module", norm_type="inf", cosine=True))
    assert shown == "GradientMonitor(log_every_n_steps=5, norm_type=inf, group_by='module', cosine=True)"


def test_table_and_report_say_what_the_history_holds():
    monitor = GradientMonitor(1, group_by="module", prefix="my/")
    assert (monitor.table(), monitor.report()) == ("", "no step was logged")
    fit(Regression(), monitor, gradient_clip_val=0.1)
    norms = {
        layer: [r.values[f"my/grad_norm/{layer}"] for r in monitor.history] for layer in ("net.0", "net.2", "net.4")
    }
    header, *rows = (line.split() for line in monitor.table().splitlines())
    assert header == ["gradient", "norm", "of", "step", "0", "median", "step", "5"]
    for row, (layer, values) in zip(rows, norms.items(), strict=True):
        assert row == [layer, *(f"{x:.3g}" for x in (values[0], statistics.median(values), values[-1]))]
    totals = [record.values["my/grad_norm/total"] for record in monitor.history]
    largest, smallest = (choose(norms, key=lambda layer: norms[layer][-1]) for choose in (max, min))
    assert monitor.report().splitlines() == [
        "6 logged steps, 0 to 5",
        f"my/grad_norm/total: median {statistics.median(totals):.3g}, last {totals[-1]:.3g}",
        f"largest layer at the last step: {largest}, {norms[largest][-1]:.3g}",
        f"smallest layer at the last step: {smallest}, {norms[smallest][-1]:.3g}",
        f"clipped: {last(monitor)['my/clip/rate']:.0%} of the latest logged steps",
    ]


def test_in_a_notebook_names_are_text():
    net = torch.nn.Sequential(OrderedDict({"<b>": torch.nn.Linear(4, 1), "other": torch.nn.Linear(1, 1)}))
    monitor = GradientMonitor(1)
    fit(Regression(lambda: net), monitor)
    shown = monitor._repr_html_()
    assert "net.&lt;b&gt;.weight" in shown
    assert "<b>" not in shown
    assert "6 logged steps" in shown
