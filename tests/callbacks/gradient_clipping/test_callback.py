import copy
import io
import math
import pickle
import signal
import warnings

import pytest
import torch
from helpers.clipping_cases import Two, TwoValidated, Validated, nan_at, ordinary_run, trained, weights
from helpers.runs import GradientSpy, Regression, batches, fit, loader, reference_norm, trainer
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.callbacks import GradientClipping, GradientMonitor
from lightning_gradtools.callbacks.gradient_clipping import methods


def test_other_callbacks_see_the_gradients_before_clipping():
    first, last = GradientSpy(), GradientSpy()
    trained(first, GradientClipping(0.1), last)
    assert reference_norm(first.before[0]) == reference_norm(last.before[0]) > 0.11
    assert all(reference_norm(after) == pytest.approx(0.1, rel=1e-4) for after in last.after)


@pytest.mark.parametrize("raw", [False, True])
def test_manual_optimisation_and_two_optimizers_with_a_threshold_each(raw):
    clipping, spy = GradientClipping(0.1, overrides={1: 0.02}), GradientSpy()
    fit(Two(clipping if raw else None), clipping, spy, max_steps=4, max_epochs=1)
    for part, limit in (("net", 0.1), ("other", 0.02)):
        mine = {name: g for name, g in spy.after[0].items() if name.startswith(part)}
        assert reference_norm(mine) == pytest.approx(limit, rel=1e-3)


def test_logs_coefficient_rate_and_skips():
    logged = []

    class Memory(CSVLogger):
        def log_metrics(self, metrics, step):
            if "clip/rate" in metrics:  # Lightning logs what validation found
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


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_norm": math.nan}, "max_norm=nan: must be a finite number > 0"),
        ({"zscore": 2, "max_norm": math.inf}, "max_norm=inf: must be a finite number > 0"),
        ({"percentile": 101}, "percentile=101: must be a finite number > 0 and <= 100"),
        ({"percentile": 10, "zscore": 2}, "got percentile=10, zscore=2"),
        ({"percentile": 10, "window": 10**12}, "window=1000000000000: must be an integer >= 2 and <= 16777216"),
        ({"percentile": 10, "warmup_steps": 129}, "warmup_steps=129: must be an integer >= 1 and <= 128"),
        ({"adaptive": 0.01, "min_weight_norm": 0}, "min_weight_norm=0: must be a finite number > 0"),
        ({"max_norm": 1, "overrides": 3}, "overrides=3: must be thresholds by optimizer or parameter group, such as"),
        ({"max_norm": 1, "overrides": {0: "a"}}, r"overrides\['0'\]='a': must be a finite number > 0"),
        ({"max_norm": 1, "exclude": 3}, "exclude=3: must be a regular expression or a list of them"),
        ({"max_norm": 1, "exclude": [3]}, r"exclude=\[3\]: must be a regular expression or a list of them"),
    ],
)
def test_what_is_no_argument_at_all_is_one_clear_line(wrong, message):
    with pytest.raises(ArgumentError, match=message) as found:
        GradientClipping(**wrong)
    assert "\n" not in str(found.value)


def test_repr_says_how_it_clips_and_what_is_not_as_by_default():
    assert repr(GradientClipping(1.0)) == "GradientClipping(max_norm=1.0)"
    assert repr(GradientClipping(zscore=2.5, max_norm=3, window=64, exclude=[], overrides={1: None})) == (
        "GradientClipping(max_norm=3, zscore=2.5, overrides={'1': None}, window=64)"
    )
    assert repr(GradientClipping(clip_value=0.1, on_nonfinite=None)) == (
        "GradientClipping(clip_value=0.1, on_nonfinite=None)"
    )


class Ends(Callback):
    """Ends a run in one of the ways in which a callback can."""

    def __init__(self, way):
        self.way = way

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        return -1 if self.way == "rest of the epoch left out" and batch_idx == 2 else None

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = self.way == "stop"


class Raises:
    raised = None

    def training_step(self, batch, batch_idx):
        if self.training and self.raised and batch_idx == 2:
            raise self.raised
        return super().training_step(batch, batch_idx)


class Automatic(Raises, Validated):
    pass


class Manual(Raises, TwoValidated):
    pass


@pytest.fixture
def interruptible():
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)  # Lightning ignores further interrupts after the first


WAYS = ["by itself", "fast_dev_run", "rest of the epoch left out", "stop", "error", "interrupt"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make", [Automatic, Manual])
def test_the_module_is_as_before_however_the_run_ends(make, way, tmp_path, interruptible):
    module, spy, clipping = make(), GradientSpy(), GradientClipping(0.01)
    before = set(vars(module))
    callbacks = [clipping, Ends(way), spy]
    settings = {"fast_dev_run": 3} if way == "fast_dev_run" else {}
    module.raised = {"error": LookupError("of the user's"), "interrupt": KeyboardInterrupt()}.get(way)
    if module.raised:
        with pytest.raises(LookupError if way == "error" else SystemExit):
            ordinary_run(module, *callbacks, folder=tmp_path)
    else:
        ordinary_run(module, *callbacks, folder=tmp_path, **settings)
    assert spy.after, "no step was taken"
    for name in ("net", "other") if make is Manual else ("net",):
        mine = {key: gradient for key, gradient in spy.after[0].items() if key.startswith(name)}
        assert reference_norm(mine) == pytest.approx(0.01, rel=1e-3)
    assert {name for name in set(vars(module)) - before if "gradient" in name or name.startswith("on_")} == set()
    with pytest.raises(RuntimeError, match="must be called while a Trainer with this callback fits"):
        clipping.clip(torch.optim.SGD(module.parameters(), lr=0.1))


def test_an_end_that_nobody_told_it_of_is_made_up_for_in_the_next_run(tmp_path):
    class FailsTwice(Callback):
        def on_train_batch_end(self, trainer, *_):
            raise LookupError("first")

        def on_exception(self, *_):
            raise LookupError("second")  # so that no later callback hears of the first

    module, clipping, spy = Validated(), GradientClipping(0.01), GradientSpy()
    with pytest.raises(LookupError, match="second"):
        ordinary_run(module, FailsTwice(), clipping, folder=tmp_path)
    ordinary_run(module, GradientClipping(0.02), spy, folder=tmp_path)
    assert all(reference_norm(after) == pytest.approx(0.02, rel=1e-3) for after in spy.after)
    spy.after.clear()
    ordinary_run(module, clipping, spy, folder=tmp_path)
    assert all(reference_norm(after) == pytest.approx(0.01, rel=1e-3) for after in spy.after)
    assert "configure_gradient_clipping" not in vars(module)


def saved_and_loaded(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "torch.save": saved_and_loaded,
}


class Copying(Validated):
    """Copies itself in the middle of a step, as those with a target network or an average do."""

    way, copies = None, None

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if self.training:
            Copying.copies.append(COPIES[Copying.way](self))
        return loss


class CopyingManually(TwoValidated):
    def training_step(self, batch, batch_idx):
        super().training_step(batch, batch_idx)
        Copying.copies.append(COPIES[Copying.way](self))


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("kind", ["automatic", "manual", "raw"])
def test_copies_made_while_it_trains_work_and_have_the_classs_own_methods(kind, way, tmp_path):
    class CopiesBetweenSteps(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            Copying.copies.append(COPIES[way](pl_module))

    Copying.way, Copying.copies = way, []
    clipping = GradientClipping(0.1)
    module = Copying() if kind == "automatic" else CopyingManually(clipping if kind == "raw" else None)
    ordinary_run(module, clipping, CopiesBetweenSteps(), folder=tmp_path)
    copies, Copying.copies = Copying.copies, []
    assert len(copies) == 12
    assert torch.equal(weights(copies[-1]), weights(module))
    for copied in copies:
        for name in ("configure_gradient_clipping", "on_before_optimizer_step"):
            method = getattr(copied, name)
            assert method.__func__ is getattr(LightningModule, name)
            assert method.__self__ is copied
    # A copy may be trained with and without clipping, which is then its own.
    spy, again = GradientSpy(), copies[0]
    if kind == "automatic":
        ordinary_run(again, GradientClipping(0.02), spy, folder=tmp_path)
        assert all(reference_norm(after) == pytest.approx(0.02, rel=1e-3) for after in spy.after)
        free = GradientSpy()
        ordinary_run(again, free, folder=tmp_path)
        assert any(reference_norm(after) > 0.1 for after in free.after)


def test_clipping_of_a_users_class_of_the_same_name_as_lightnings_is_refused():
    own = type("LightningModule", (Regression,), {"configure_gradient_clipping": lambda self, *_, **__: None})
    with pytest.raises(ArgumentError, match=r"LightningModule.configure_gradient_clipping: must not be overridden"):
        fit(own(), GradientClipping(1.0))
    named = type("LightningModule", (Regression,), {})
    fit(named(), GradientClipping(1.0))


def test_the_users_own_clipping_on_the_object_is_refused_and_stays():
    def mine(optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        pass

    module = Regression()
    module.configure_gradient_clipping = mine
    with pytest.raises(ArgumentError, match=r"Regression.configure_gradient_clipping: must not .* on the object"):
        fit(module, GradientClipping(1.0))
    assert module.configure_gradient_clipping is mine


def test_the_users_own_hook_on_the_object_comes_first_and_stays(tmp_path):
    seen = []

    def mine(optimizer):
        seen.append(math.hypot(*(p.grad.norm() for group in optimizer.param_groups for p in group["params"])))

    module, spy = TwoValidated(), GradientSpy()
    module.on_before_optimizer_step = mine
    ordinary_run(module, GradientClipping(0.01), spy, folder=tmp_path)
    assert len(seen) == 12
    assert min(seen) > 0.02
    assert reference_norm(spy.after[0]) == pytest.approx(math.hypot(0.01, 0.01), rel=1e-3)
    assert module.on_before_optimizer_step is mine


class FullDisk(CSVLogger):
    def log_metrics(self, metrics, step):
        if "clip/rate" in metrics:
            raise OSError(28, "No space left on device")


def test_a_logger_that_fails_changes_nothing_and_is_named_once(tmp_path):
    def run(logger):
        torch.manual_seed(0)
        module, clipping = Regression(), GradientClipping(zscore=0.5, warmup_steps=2)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            run = fit(module, clipping, logger=logger, default_root_dir=tmp_path)
        ours = [str(each.message) for each in told if "GradientClipping" in str(each.message)]
        return weights(module), ours, clipping, run

    expected, nothing, sound, _ = run(False)
    found, told, clipping, finished = run(FullDisk(tmp_path))
    assert torch.equal(found, expected)
    assert finished.global_step == 6
    assert clipping.state_dict() == sound.state_dict()
    assert nothing == []
    assert told == [
        "GradientClipping's logging is off for the rest of this run, training goes on:"
        " OSError in _log: [Errno 28] No space left on device"
    ]
    assert "No space left" in clipping.guard.failure


def test_skips_are_still_counted_and_end_the_run_where_logging_failed(reading_is_expensive, tmp_path):
    clipping = GradientClipping(0.1, max_consecutive_skips=2)
    with (
        pytest.warns(UserWarning, match="GradientClipping's logging is off"),
        pytest.raises(FloatingPointError, match="3 steps in a row"),
    ):
        trained(clipping, data=nan_at(1, 2, 3), settings={"fused": True}, logger=FullDisk(tmp_path))


def test_an_error_in_the_clipping_itself_ends_the_run(monkeypatch, tmp_path):
    def broken(*_):
        raise ArithmeticError("cannot clip")

    monkeypatch.setattr(methods, "clip_coefficient", broken)
    with pytest.raises(ArithmeticError, match="cannot clip"):
        ordinary_run(Validated(), GradientClipping(0.1), folder=tmp_path)


def test_the_same_callback_on_a_second_model_has_no_trace_of_the_first(tmp_path):
    def on_second_model(clipping):
        torch.manual_seed(1)
        module = Validated(optimizer=torch.optim.SGD, lr=0.1)
        ordinary_run(module, clipping, folder=tmp_path)
        return weights(module), clipping.state_dict()

    used = GradientClipping(percentile=50, warmup_steps=2)
    with pytest.warns(UserWarning, match="is skipped"):
        ordinary_run(
            Validated(optimizer=torch.optim.SGD, lr=0.0),
            used,
            folder=tmp_path,
            data=[(x, 1e5 * y) for x, y in nan_at(5)],
        )
    assert used.state_dict()["tallies"]["0"]["skipped_steps"] == 1
    assert min(used.state_dict()["histories"]["0"]) > 1e3
    second, state = on_second_model(used)
    expected, expected_state = on_second_model(GradientClipping(percentile=50, warmup_steps=2))
    assert torch.equal(second, expected)
    assert state == expected_state


@pytest.mark.filterwarnings("ignore:The dirpath has changed")  # of the checkpoints, in another run's folder
def test_a_resume_in_an_ordinary_run_keeps_what_was_remembered(tmp_path):
    def callback():
        return GradientClipping(percentile=50, warmup_steps=2)

    whole = callback()
    torch.manual_seed(0)
    uninterrupted = Validated()
    ordinary_run(uninterrupted, whole, folder=tmp_path, max_epochs=2)
    torch.manual_seed(0)
    half = callback()
    run = ordinary_run(Validated(), half, folder=tmp_path)
    run.save_checkpoint(tmp_path / "half.ckpt")
    # the same object, too, goes on with what the checkpoint has
    for clipping in (callback(), half):
        resumed = Validated()
        ordinary_run(resumed, clipping, folder=tmp_path, max_epochs=2, ckpt_path=tmp_path / "half.ckpt")
        assert torch.equal(weights(resumed), weights(uninterrupted))
        assert clipping.state_dict() == whole.state_dict()


def test_states_of_other_versions_are_taken_over_as_far_as_they_go():
    clipping = GradientClipping(percentile=50, warmup_steps=1)
    with pytest.warns(UserWarning, match="is skipped"):
        trained(clipping, data=nan_at(3))
    state = clipping.state_dict()
    assert state["version"] == 1

    def restored(entries):
        other = GradientClipping(percentile=50, warmup_steps=1)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            other.load_state_dict(entries)
        return other.state_dict(), [str(each.message) for each in told]

    without_version = {key: value for key, value in state.items() if key != "version"}
    assert restored(without_version) == (state, [])
    found, told = restored({"histories": state["histories"], "new": 1})
    assert found == {**state, "tallies": {}}
    assert told == [
        "GradientClipping: of its state in the checkpoint 'new' is unknown, 'tallies' is missing;"
        " the rest is taken over"
    ]
    found, told = restored({**state, "histories": {"0": ["a"]}})
    assert found == {**state, "histories": {}}
    assert len(told) == 1
    assert "'histories' cannot be read" in told[0]


def test_what_it_logs_is_in_callback_metrics_too(tmp_path):
    clipping = GradientClipping(zscore=2.5, warmup_steps=2)
    run = ordinary_run(Validated(), clipping, folder=tmp_path)
    tally = clipping.state_dict()["tallies"]["0"]
    found = {key: value.item() for key, value in run.callback_metrics.items() if key.startswith("clip/")}
    assert found == pytest.approx(
        {
            "clip/skipped_steps": 0,
            "clip/coefficient": tally["coefficient"],
            "clip/rate": sum(tally["clipped"]) / 6,
            "clip/threshold": tally["limit"],
        }
    )
    assert "validation_loss" in run.callback_metrics


@pytest.mark.parametrize("every", [100, None], ids=["nothing logged yet", "each step logged"])
@pytest.mark.parametrize("window", [1, 4])
@pytest.mark.parametrize("clips_first", [True, False])
@pytest.mark.parametrize("checked_when", ["validation ends", "the epoch ends"])
def test_early_stopping_and_checkpoints_find_the_rate_at_once(checked_when, clips_first, window, every, tmp_path):
    at_epoch = checked_when == "the epoch ends"
    stop = EarlyStopping("clip/rate", mode="min", stopping_threshold=1.5, check_on_train_epoch_end=at_epoch)
    best = ModelCheckpoint(tmp_path / "best", monitor="clip/rate")
    callbacks = [GradientClipping(0.01, log_every_n_steps=every), stop, best]
    settings = {"limit_val_batches": 0} if at_epoch else {}
    run = ordinary_run(
        Validated(),
        *(callbacks if clips_first else reversed(callbacks)),
        folder=tmp_path,
        max_epochs=5,
        accumulate_grad_batches=window,
        **settings,
    )
    assert run.current_epoch == 1
    assert run.callback_metrics["clip/rate"] == 1
    assert best.best_model_score == 1


def test_a_bound_beyond_the_parameters_dtype_is_refused_before_the_first_step():
    with pytest.raises(
        ArgumentError, match=r"^clip_value=1e\+300: must be .* <= 3.40282e\+38, the .* torch.float32 of"
    ):
        fit(Regression(), GradientClipping(clip_value=1e300))
    with pytest.raises(ArgumentError, match=r"^overrides\['0/0'\]=1e\+300: must be"):
        fit(Regression(), GradientClipping(clip_value=1.0, overrides={"0/0": 1e300}))
    with pytest.raises(
        ArgumentError, match=r"^clip_value=100000.0: must be .* <= 65504, the largest that torch.float16"
    ):
        fit(Regression(), GradientClipping(clip_value=1e5), precision="16-true")
    for fine in ({"clip_value": 3.4e38}, {"max_norm": 1e300}):
        free, _ = trained()
        clipped, _ = trained(GradientClipping(**fine))
        assert torch.equal(weights(clipped), weights(free))


def test_works_in_a_trainer_of_the_package_by_the_other_name(tmp_path):
    other = pytest.importorskip("pytorch_lightning")

    class Module(other.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Linear(4, 1)

        def training_step(self, batch, batch_idx):
            x, y = batch
            return (self.net(x) - y).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    class Clips(Module):
        def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
            pass

    def run(module, *callbacks):
        settings = {
            "max_epochs": 1,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "accelerator": "cpu",
        }
        found = other.Trainer(
            callbacks=list(callbacks), logger=CSVLogger(tmp_path), default_root_dir=tmp_path, **settings
        )
        found.fit(module, loader(batches()))
        return found

    spy = GradientSpy()
    finished = run(Module(), GradientClipping(0.01), spy)
    assert all(reference_norm(after) == pytest.approx(0.01, rel=1e-3) for after in spy.after)
    assert finished.callback_metrics["clip/rate"] == 1
    with pytest.raises(ArgumentError, match=r"Clips.configure_gradient_clipping: must not be overridden"):
        run(Clips(), GradientClipping(0.01))
