"""What a user types, and what is printed."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

BRIEF = ("trainer.max_epochs=1", "trainer.limit_train_batches=4", "trainer.log_every_n_steps=2")


@pytest.fixture
def user(gradtools_train, tmp_path):
    """Run with the user's own package, which lies in the folder the command is typed in."""
    shutil.copy(Path(__file__).with_name("user_package.py"), tmp_path / "user_package.py")
    ours = ("data._target_=user_package.Data", "trainer.max_epochs=2", "trainer.log_every_n_steps=2")

    def run(module, *arguments):
        return gradtools_train(f"model._target_=user_package.{module}", *ours, *arguments)

    return run


def only(pattern):
    (found,) = Path().glob(pattern)
    return found


def test_the_default_run_learns_and_leaves_what_it_says(gradtools_train, capsys):
    assert gradtools_train() == 0
    out, err = capsys.readouterr()
    folder = only("outputs/digits/*")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["metrics"]["val/accuracy"] >= 0.97
    assert summary["metrics"]["test/accuracy"] >= 0.95
    assert summary["steps"] == 30 * 19
    assert summary["metrics"]["grad_norm/total"] > 0

    assert yaml.safe_load((folder / "config.yaml").read_text())["output_dir"] == str(folder.resolve())
    assert set(json.loads((folder / "versions.json").read_text())) >= {"torch", "lightning", "python", "command"}
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert torch.load(folder / "checkpoints" / "last.ckpt")["global_step"] == 30 * 19
    assert f"Last checkpoint  {folder / 'checkpoints' / 'last.ckpt'}" in out
    assert "To go on" not in out
    assert list((folder / "tensorboard").glob("events*"))

    tree = out[: out.index("epoch ")]
    for words in ("MLP(in_features=64, out_features=10)", "26,122 parameters", "AdamW(lr=0.003)", "GradientMonitor("):
        assert words in tree
    assert f"tensorboard --logdir {folder}" in out
    for line in (line for line in out.splitlines() if line.startswith("epoch ")):
        assert all(word in line for word in ("train/loss=", "grad_norm=", "lr="))
    for noise in ("GPU", "TPU", "Tip", "litlogger", "Restoring", "stopped", "workers"):
        assert noise not in out + err


def test_a_user_s_module_without_an_optimizer_gets_the_groups(user, capsys):
    assert user("Module", "+model.width=16", "optimizer=sgd", "optimizer.lr=0.25") == 0
    out = capsys.readouterr().out
    assert "Module(width=16), 97 parameters" in out
    assert "SGD(lr=0.25)" in out
    assert "schedule   WarmupCosineSchedule()" in out


def test_a_user_s_module_with_an_optimizer_keeps_it_and_is_told_how_to_change_that(user, capsys):
    assert user("Owner") == 0
    out = capsys.readouterr().out
    assert "optimizer  Owner.configure_optimizers (apply_optimizer=true would use AdamW(lr=0.003))" in out
    assert "schedule   Owner.configure_optimizers (apply_schedule=true would use WarmupCosineSchedule())" in out
    assert "lr=0.125" in out

    assert user("Owner", "apply_optimizer=true", "apply_schedule=true") == 0
    out = capsys.readouterr().out
    assert "optimizer  AdamW(lr=0.003)" in out
    assert "lr=0.125" not in out


def test_a_bug_in_the_user_s_code_keeps_its_traceback(user):
    with pytest.raises(RuntimeError, match="a bug of the user's"):
        user("Broken")


def test_a_sweep_returns_the_objective_and_ends_in_one_table(gradtools_train, capsys):
    assert gradtools_train("-m", "optimizer.lr=0.01,0.000001", "test=false", *BRIEF) == 0
    out = capsys.readouterr().out
    table = out[out.rindex("  run  swept") :].splitlines()
    assert [row.split()[:2] for row in table[1:3]] == [["0", "optimizer.lr=0.01"], ["1", "optimizer.lr=1e-06"]]
    assert table[-1].startswith("TensorBoard")


def test_in_a_sweep_the_other_runs_go_on_when_one_fails(gradtools_train, capsys):
    assert gradtools_train("-m", "model.net.activation=rleu,relu", "test=false", *BRIEF) == 1
    captured = capsys.readouterr()
    assert "activation='rleu': must be one of" in captured.err
    assert len(list(Path().glob("outputs/digits/sweep_*/1/summary.json"))) == 1


def test_a_strategy_that_reruns_the_command_line_is_refused_in_a_sweep(gradtools_train, capsys):
    assert gradtools_train("-m", "seed=0,1", "trainer=ddp", *BRIEF) == 1
    assert "trainer.strategy='ddp': cannot run in a sweep" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:The dirpath has changed")  # each run has a folder of its own
def test_resume_goes_on_where_the_checkpoint_stopped(gradtools_train, capsys):
    assert gradtools_train("trainer.max_epochs=1", "test=false", "schedule=none") == 0
    checkpoint = only("outputs/digits/*/checkpoints/last.ckpt")
    capsys.readouterr()
    assert gradtools_train("trainer.max_epochs=2", "name=resumed", "schedule=none", f"ckpt_path={checkpoint}") == 0
    assert "38 optimizer steps" in capsys.readouterr().out


def test_an_interrupt_keeps_what_was_computed(gradtools_train, capsys, monkeypatch):
    """Lightning turns the interrupt into an exit with status 1, after its teardown."""

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("lightning_gradtools.callbacks.ProgressBar.on_train_epoch_end", interrupt)
    assert gradtools_train("trainer.max_epochs=3") == 1
    out = capsys.readouterr().out
    assert "19 optimizer steps" in out
    assert "val/accuracy" in json.loads(only("outputs/digits/*/summary.json").read_text())["metrics"]
    assert "gradient norm of" in out


def test_debug_groups(gradtools_train):
    assert gradtools_train("debug=fast_dev_run", "name=one") == 0
    assert gradtools_train("debug=overfit_batches", "trainer.max_epochs=2", "name=two") == 0


@pytest.mark.parametrize(
    "schedule", ["warmup_stable_decay", "cosine", "step", "exponential", "plateau", "one_cycle", "none"]
)
def test_every_schedule_trains(gradtools_train, capsys, schedule):
    rates = {
        "step": ["schedule.scheduler.step_size=1"],
        "plateau": ["schedule.scheduler.patience=0", "+schedule.scheduler.threshold=0.999"],
    }
    brief = (*BRIEF, "trainer.max_epochs=3", "trainer.limit_val_batches=1", "test=false")
    assert gradtools_train(f"schedule={schedule}", *rates.get(schedule, []), *brief) == 0
    rate = float(capsys.readouterr().out.split("epoch 3/3")[1].split("lr=")[1].split()[0])
    last = {"step": 3e-6, "exponential": 0.003 * 0.9**3, "none": 0.003}.get(schedule)
    assert rate == pytest.approx(last, rel=0.01) if last else rate < 0.0004


def test_tune_lr_prints_overrides_and_trains_nothing(gradtools_train, capsys):
    assert gradtools_train("tune=lr", "tune.num_steps=60", "tune.noise_steps=20") == 0
    out = capsys.readouterr().out
    rate = float(out.split("optimizer.lr=")[1].split()[0])
    assert 1e-4 < rate < 0.3
    assert "Batch size" in out
    folder = only("outputs/digits/*")
    assert (folder / "lr_range_test.png").read_bytes().startswith(b"\x89PNG")
    assert not (folder / "checkpoints").exists()


def test_initialization_is_a_group(gradtools_train, capsys):
    assert gradtools_train("initialization=orthogonal", "model.net.init=default", "test=false", *BRIEF) == 0
    assert "weights    WeightInitialization(scheme=orthogonal)" in capsys.readouterr().out
    weight = torch.load(only("outputs/digits/*/checkpoints/last.ckpt"))["state_dict"]["net.layers.1.linear.weight"]
    assert torch.linalg.svdvals(weight).std() < 0.05  # orthogonal but for the four steps since


def test_help_is_one_readable_page(gradtools_train, capsys):
    assert gradtools_train("--help") == 0
    page = capsys.readouterr().out
    for words in (
        "Usage",
        "experiment: ",
        "vanishing_sigmoid",
        "model: cnn, ",
        "summary.json",
        "-m optimizer.lr=0.1,0.01",
        "resume=outputs/digits/<date>",
    ):
        assert words in page
    assert max(map(len, page.splitlines())) <= 180  # the longest is a group with its options, which Hydra does not wrap


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("model=mpl", "Did you mean mlp?"),
        ("modle=mlp", "Did you mean model?"),
        ("callbacks/gradtools=gradient_monitr", "Did you mean gradient_monitor?"),
        ("trainer.max_epoch=3", "Did you mean trainer.max_epochs?"),
        ("lr=3", "Did you mean optimizer.lr?"),
        ("model=cnn model.net.chanels=[3]", "Did you mean model.net.channels?"),
        ("trainer.max_epochs=abc", "Error: trainer.max_epochs='abc': must be an integer >= -1"),
        ("optimizer.lr=fast", "Error: optimizer.lr='fast': must be a finite number >= 0"),
        ("seed=-1", "Error: seed=-1: must be an integer >= 0"),
        ("model.net.activation=rleu", "Error: model.net: activation='rleu': must be one of"),
        ("data.batch_size=5000", "Error: batch_size=5000: "),
        ("data=diabetes data.features=[bmi,weight]", "Error: features: there is no column 'weight'; there are age"),
        ("model.net.in_features=63", "Error: in_features=63: the data has 64 features"),
        ("callbacks.gradient_clipping.max_norm=-1", "Error: callbacks.gradient_clipping: max_norm=-1: must be"),
        ("schedule.warmup_steps=1.5", "Error: schedule: warmup_steps=1.5: must be a finite number >= 0 and <= 1"),
        ("trainer.gradient_clip_val=1", "Could not override 'trainer.gradient_clip_val'"),
        ("model._target_=no_such_package.Net", "Error: model: "),
        ("trainer.accelerator=abacus", "Error: trainer: "),
        ("float32_matmul_precision=hihg", "(did you mean 'high'?)"),
    ],
)
def test_a_mistake_is_one_clear_error_without_a_traceback(gradtools_train, capsys, arguments, message):
    assert gradtools_train(*arguments.split()) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err + captured.out


def test_tracebacks_on_request(gradtools_train, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ValueError, match="seed=-1"):
        gradtools_train("seed=-1")
