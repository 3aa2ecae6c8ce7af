"""All of ours in a run of ``lightning.pytorch`` and of ``pytorch_lightning``: one to us, and so to these tests."""

import math
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers.flavours import FLAVOURS, Flavour
from helpers.runs import GradientSpy, WrongDouble, batches, loader, reference_norm
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_gradtools import callbacks as ours
from lightning_gradtools._lightning.flavour import is_a, is_overridden, package_of
from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.callbacks.pathology_detector.replay import replay
from lightning_gradtools.reporting.loggers import MLFlowAdapter, WandbAdapter, adapter
from lightning_gradtools.schedules import WarmupCosine

STEPS = 6


@pytest.fixture(params=FLAVOURS)
def flavour(request):
    return Flavour(request.param)


def weights(module):
    return torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])


def far_too_fast(self):
    return torch.optim.SGD(self.parameters(), lr=1e3)


OBSERVERS = {
    "monitor": lambda: ours.GradientMonitor(
        weight_norm=True, update_ratio=True, cosine=True, noise_scale=True, histograms=True, progress_bar=True
    ),
    "detector": lambda: ours.PathologyDetector(every_n_steps=1, on_warning="log", on_critical="log"),
    "spectrum": lambda: ours.HessianSpectrum(every_n_steps=2, top_k=2, density=20, rtol=0.1),
    "check": lambda: ours.GradientCheck(),
    "schedule": lambda: ours.WarmupCosineSchedule(warmup_steps=0, min_lr_ratio=1.0),
    "bar": lambda: ours.ProgressBar(),
}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_observers_work_change_no_bit_and_reach_tensorboard(flavour, accumulate, tmp_path):
    plain, watched = flavour.module(), flavour.module()
    settings = {"max_epochs": 3, "accumulate_grad_batches": accumulate}
    flavour.fit(plain, logger=False, **settings)
    observers = {name: make() for name, make in OBSERVERS.items() if accumulate == 2 or name != "monitor"}
    if accumulate == 1:
        observers["monitor"] = ours.GradientMonitor(histograms=True)
    logger = flavour.part("loggers.TensorBoardLogger")(tmp_path)
    run = flavour.fit(watched, *observers.values(), logger=logger, **settings)

    assert torch.equal(weights(watched), weights(plain))
    failures = {name: getattr(each, "failure", None) for name, each in observers.items()}
    assert not any(failures.values()), failures
    assert observers["detector"].history.observations
    assert observers["spectrum"].history
    assert observers["check"].result.passed
    assert len(observers["monitor"].history) == run.global_step
    published = run.callback_metrics
    assert {"grad_norm/total", "curvature/sharpness", "val/loss"} <= published.keys()
    assert ("grad_noise/signal" in published) == (accumulate == 2)

    events = EventAccumulator(logger.log_dir)
    events.Reload()
    tags = events.Tags()
    assert {"grad_norm/total", "grad_norm/net.0.weight", "curvature/sharpness"} <= set(tags["scalars"])
    assert "grad_histogram/net.0.weight" in tags["histograms"]
    assert {"grad_norm/over_depth", "curvature/density", "learning_rate/planned"} <= set(tags["images"])


def test_what_the_detector_finds_reaches_tensorboard_as_text(flavour, tmp_path):
    detector = ours.PathologyDetector(every_n_steps=1, on_warning="log", on_critical="log")
    logger = flavour.part("loggers.TensorBoardLogger")(tmp_path)
    flavour.fit(flavour.module(configure_optimizers=far_too_fast), detector, logger=logger, max_epochs=6)
    assert {each.kind.value for each in detector.findings} == {"learning_rate_too_high", "nonfinite"}
    assert [each.kind.value for each in detector.roots()] == ["learning_rate_too_high"]
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    assert "diagnosis/findings/text_summary" in events.Tags()["tensors"]


def test_the_step_that_broke_is_replayed_from_its_dump(flavour, tmp_path):
    data = batches()
    data[3][0][5, 2] = math.nan
    detector = ours.PathologyDetector(dump_dir=str(tmp_path), on_warning="log", on_critical="log")
    flavour.trainer(detector, logger=False).fit(flavour.module(), loader(data), loader(batches(2)))
    (path,) = tmp_path.glob("*.pt")
    origin = replay(path)
    assert (origin.direction, "samples [5]" in origin.detail) == ("input data", True)


@pytest.mark.parametrize("kind", ["CSVLogger", "WandbLogger", "MLFlowLogger"])
def test_every_logger_of_the_flavour_has_its_adapter(flavour, kind, tmp_path):
    if kind == "CSVLogger":
        logger = flavour.part("loggers.CSVLogger")(tmp_path)
        monitor = ours.GradientMonitor()
        flavour.fit(flavour.module(), monitor, logger=logger)
        header, *rows = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
        assert "grad_norm/total" in header.split(",")
        assert len(rows) >= STEPS
        return
    cls = flavour.part(f"loggers.{kind}")
    found = adapter(cls.__new__(cls))  # a whole one takes a package that is not installed
    assert type(found) is {"WandbLogger": WandbAdapter, "MLFlowLogger": MLFlowAdapter}[kind]


def test_clipping_clips_and_publishes(flavour, tmp_path):
    spy, clipping = GradientSpy(), ours.GradientClipping(0.01)
    logger = flavour.part("loggers.CSVLogger")(tmp_path)
    run = flavour.fit(flavour.module(), ours.GradientMonitor(), clipping, spy, logger=logger)
    assert len(spy.after) == STEPS
    assert all(reference_norm(after) == pytest.approx(0.01, rel=1e-3) for after in spy.after)
    assert run.callback_metrics["clip/rate"] == 1
    assert run.callback_metrics["grad_norm_clipped/total"] == pytest.approx(0.01, rel=1e-3)


def test_the_trainers_own_clipping_is_seen_and_the_modules_too(flavour):
    monitor = ours.GradientMonitor()
    flavour.fit(flavour.module(), monitor, gradient_clip_val=0.01, logger=False)
    assert all(0 < record.values["clip/coefficient"] < 1 for record in monitor.history)

    def own(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        for parameter in self.parameters():
            parameter.grad.zero_()

    monitor = ours.GradientMonitor()
    flavour.fit(flavour.module(configure_gradient_clipping=own), monitor, logger=False)
    assert all(record.values["grad_norm_clipped/total"] == 0 for record in monitor.history)
    monitor = ours.GradientMonitor()
    flavour.fit(flavour.module(), monitor, logger=False)
    assert all("grad_norm_clipped/total" not in record.values for record in monitor.history)


class Manual:
    """By what a module is made one that takes its steps itself."""

    automatic_optimization = property(lambda self: False, lambda self, value: None)

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward((self.net(batch[0]) - batch[1]).square().mean())
        optimizer.step()


def with_scheduler(self):
    optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
    return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


MANUAL = {"automatic_optimization": Manual.automatic_optimization, "training_step": Manual.training_step}
STEP_LR = partial(torch.optim.lr_scheduler.StepLR, step_size=1)
REFUSED = {
    "clip twice": (lambda: ours.GradientClipping(1.0), {}, {"gradient_clip_val": 1.0}, r"^gradient_clip_val=1\.0"),
    "own clipping": (
        lambda: ours.GradientClipping(1.0),
        {"configure_gradient_clipping": lambda self, *_: None},
        {},
        r"configure_gradient_clipping: must not be overridden",
    ),
    "two schedules": (lambda: ours.WarmupCosineSchedule(), {"configure_optimizers": with_scheduler}, {}, "StepLR"),
    "two schedulers": (
        lambda: ours.TorchLRScheduler(STEP_LR),
        {"configure_optimizers": with_scheduler},
        {},
        "already has a scheduler",
    ),
    "manual scheduler": (lambda: ours.TorchLRScheduler(STEP_LR), MANUAL, {}, "manual optimisation"),
    "manual spectrum": (lambda: ours.HessianSpectrum(every_n_steps=1), MANUAL, {}, "automatic_optimization=False"),
    "manual weights": (lambda: ours.WeightInitialization(), MANUAL, {}, "example_input_array=None"),
    "no end": (lambda: ours.WarmupCosineSchedule(), {}, {"max_epochs": -1}, "no known end"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(flavour, case):
    make, methods, settings, message = REFUSED[case]
    with pytest.raises(ArgumentError, match=message):
        flavour.fit(flavour.module(**methods), make(), logger=False, **settings)


@pytest.mark.parametrize("strategy", ["FSDPStrategy", "DeepSpeedStrategy"])
@pytest.mark.parametrize("make", ["monitor", "spectrum", "clipping"])
def test_strategies_that_keep_whole_gradients_away_are_refused(flavour, strategy, make):
    callback = {**OBSERVERS, "clipping": lambda: ours.GradientClipping(1.0)}[make]()
    run = flavour.trainer(callback, logger=False)
    cls = flavour.part(f"strategies.{strategy}")
    run._accelerator_connector.strategy = cls.__new__(cls)  # a whole one takes GPUs and deepspeed
    with pytest.raises(ArgumentError, match=f"^strategy={strategy}"):
        callback.on_fit_start(run, flavour.module())


@pytest.mark.parametrize(
    ("settings", "growing", "steps"),
    [
        ({"accumulate_grad_batches": 4}, False, 6),
        ({}, True, 6 + 3 + 2),
        ({"max_steps": 5}, False, 5),
        ({"limit_train_batches": 2}, False, 6),
    ],
)
def test_a_schedule_is_as_long_as_the_run_and_its_rates_are_the_formulas(flavour, settings, growing, steps):
    used = []

    class Spy(flavour.pl.Callback):
        def on_train_start(self, trainer, pl_module):
            trainer.optimizers[0].register_step_pre_hook(lambda o, *_: used.append(o.param_groups[0]["lr"]))

    also = [flavour.part("callbacks.GradientAccumulationScheduler")({1: 2, 2: 3})] if growing else []
    schedule = ours.WarmupCosineSchedule(warmup_steps=2)
    run = flavour.fit(flavour.module(), schedule, Spy(), *also, max_epochs=3, logger=False, **settings)
    planned = WarmupCosine(total_steps=steps, warmup_steps=2)
    assert run.global_step == steps
    assert used == pytest.approx([0.05 * planned.factor(step) for step in range(steps)])


def test_a_resumed_schedule_goes_on_and_torchs_own_is_stepped_and_monitored(flavour, tmp_path):
    def rates(*callbacks, epochs, path=None, save=None):
        used = []

        class Spy(flavour.pl.Callback):
            def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
                used.append(trainer.optimizers[0].param_groups[0]["lr"])

        run = flavour.fit(flavour.module(), *callbacks, Spy(), max_epochs=epochs, ckpt_path=path, logger=False)
        if save:
            run.save_checkpoint(save)
        return used

    make = lambda: ours.WarmupCosineSchedule(warmup_steps=3, total_steps=4 * STEPS)  # noqa: E731
    saved = tmp_path / "half.ckpt"
    with pytest.warns(UserWarning, match="total_steps=24"):
        first = rates(make(), epochs=2, save=saved)
    assert first + rates(make(), epochs=4, path=saved) == rates(make(), epochs=4)
    stepped = rates(ours.TorchLRScheduler(partial(STEP_LR, gamma=0.5)), epochs=3)
    assert stepped[::STEPS] == pytest.approx([0.05, 0.025, 0.0125])


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_the_last_checkpoint_holds_what_all_other_callbacks_made_of_the_batch_and_is_gone_on_from(flavour, tmp_path):
    class Counter(flavour.pl.Callback):
        batches, saved = 0, None

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if self.batches:
                checkpoint = torch.load(tmp_path / "last.ckpt")
                self.saved = (checkpoint["global_step"], checkpoint["callbacks"][self.state_key]["batches"])
                assert self.saved == (self.batches, self.batches)
                (best,) = (value for key, value in checkpoint["callbacks"].items() if "ModelCheckpoint" in key)
                assert str(self.batches) in Path(best["best_model_path"]).stem

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.batches += 1

        def state_dict(self):
            return {"batches": self.batches}

    def run(folder, *others, **settings):
        module, last = flavour.module(), ours.LastCheckpoint(folder, every_minutes=0)
        trainer = flavour.fit(module, last, *others, logger=False, **{"max_epochs": 2, **settings})
        return weights(module), trainer

    best = flavour.part("callbacks.ModelCheckpoint")(tmp_path / "best", "{step}", every_n_train_steps=1)
    counter = Counter()
    _, trainer = run(tmp_path, counter, best, max_epochs=1)
    assert counter.saved == (STEPS - 1, STEPS - 1)
    assert trainer.checkpoint_callback is best  # whose best one `test(ckpt_path="best")` looks for
    whole, _ = run(tmp_path / "whole")
    run(tmp_path / "half", max_epochs=1)
    resumed, trainer = run(tmp_path / "half", ckpt_path=tmp_path / "half" / "last.ckpt")
    assert trainer.global_step == 2 * STEPS
    assert torch.equal(resumed, whole)


def test_the_range_test_ends_at_its_own_and_leaves_no_trace(flavour, tmp_path):
    pytest.importorskip("matplotlib")
    module = flavour.module(train_dataloader=lambda self: loader(batches(40)))
    before, logger = weights(module).clone(), flavour.part("loggers.TensorBoardLogger")(tmp_path)
    trainer = flavour.trainer(ours.WarmupCosineSchedule(), logger=logger, limit_val_batches=0)
    callbacks = list(trainer.callbacks)
    found = ours.lr_range_test(trainer, module, num_steps=30)
    assert len(found.rates) == 30
    assert found.rates[-1] > 0.5
    assert torch.equal(weights(module), before)
    assert (trainer.callbacks, trainer.global_step) == (callbacks, 0)
    assert found.figure.exists()


@pytest.mark.parametrize("scheme", ["he", "lsuv"])
def test_weights_are_initialised(flavour, scheme):
    module = flavour.module()
    initialization = ours.WeightInitialization(scheme)
    before = weights(module).clone()
    flavour.fit(module, initialization, logger=False, max_steps=1)
    assert [layer.name for layer in initialization.result.layers] == ["net.0", "net.2", "net.4"]
    assert not torch.equal(weights(module), before)


def test_a_wrong_gradient_is_found(flavour):
    module = flavour.module(training_step=lambda self, batch, _: WrongDouble.apply(self.net(batch[0])).square().mean())
    with pytest.raises(ours.GradientCheckError, match="is wrong"):
        flavour.fit(module, ours.GradientCheck(), logger=False)


@pytest.mark.parametrize("terminal", [False, True])
def test_one_bar_remains_and_the_trainer_knows_it(flavour, terminal, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    shown = []

    class Spy(flavour.pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            shown.append(trainer.progress_bar_callback.get_metrics(trainer, trainer.lightning_module)["lr"])

    bar = ours.ProgressBar()
    runs = [flavour.trainer(bar, Spy(), logger=False) for _ in range(2)]
    for run in runs:
        run.fit(flavour.module(), loader(batches()), loader(batches(2)))
        assert [each for each in run.callbacks if "ProgressBar" in type(each).__name__] == [bar]
        assert run.progress_bar_callback is bar
    assert isinstance(bar, ours.ProgressBar)
    assert shown == ["0.05"] * 2 * STEPS
    out = capsys.readouterr().out
    assert ("Epoch 0: 100%" in out) == terminal
    assert [line.split()[:4] for line in out.splitlines() if line.startswith("epoch")] == [
        ["epoch", "1/1", "step", str(STEPS)] for _ in runs if not terminal
    ]


def test_a_bar_that_has_run_in_the_other_flavour_is_pickled_as_it_was_made(capsys):
    other, bar = Flavour("pytorch_lightning"), ours.ProgressBar(max_lines=1)
    other.fit(other.module(), bar, logger=False)
    copy = pickle.loads(pickle.dumps(bar))  # as ddp_spawn does
    assert type(copy) is ours.ProgressBar
    capsys.readouterr()
    other.fit(other.module(), copy, logger=False, max_epochs=2)
    assert [line[:9] for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")] == ["epoch 2/2"]


WITHOUT_THE_OTHER = """
import sys
sys.modules["pytorch_lightning"] = sys.modules["lightning_fabric"] = None
import lightning_gradtools
from lightning_gradtools.callbacks import *
import lightning_gradtools.cli.train, lightning_gradtools.tasks
from helpers.runs import Regression, fit
fit(Regression(), GradientMonitor(), ProgressBar(), GradientClipping(1.0), WarmupCosineSchedule(), logger=False)
"""


def test_nothing_of_ours_asks_for_the_package_that_is_not_there(tmp_path):
    root = Path(__file__).parents[1]
    code = f"import sys; sys.path[:0] = [{str(root)!r}, {str(root / 'tests')!r}]\n{WITHOUT_THE_OTHER}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert run.returncode == 0, run.stderr


def test_a_class_is_lightnings_by_its_package_and_name_only(flavour):
    class FSDPStrategy:
        pass

    class Mine(flavour.pl.LightningModule):
        pass

    assert is_a(Mine(), "LightningModule")
    assert package_of(Mine()) == flavour.name
    assert not is_a(FSDPStrategy(), "FSDPStrategy")
    assert is_overridden("training_step", flavour.module())
    assert not is_overridden("test_step", flavour.module())
    with pytest.raises(TypeError, match="FSDPStrategy is of no class of Lightning's"):
        package_of(FSDPStrategy())
