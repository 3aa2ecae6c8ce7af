import csv
import math

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from runs import GradientSpy, Regression, fit, mlp, reference_norm
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.callbacks import GradientClipping, GradientMonitor


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
    with pytest.warns(
        UserWarning, match=r"Broken is off .*: OSError in on_train_batch_end: disk full"
    ) as caught:
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
