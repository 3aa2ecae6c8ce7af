"""A user's module of ``pytorch_lightning`` on the command line: Trainer, callbacks and loggers are of that package."""

import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf

SHORT = ("trainer.max_epochs=1", "trainer.log_every_n_steps=1")


@pytest.fixture
def train(gradtools_train, tmp_path):
    for name in ("user_package.py", "other_package.py"):
        shutil.copy(Path(__file__).with_name(name), tmp_path / name)

    def run(model, data, *arguments):
        return gradtools_train(
            f"model._target_={model}", *([f"data._target_={data}"] if data else []), *SHORT, *arguments
        )

    return run


def test_a_run_is_of_the_package_of_its_model(train, tmp_path, capsys):
    assert train("other_package.Module", "other_package.Data") == 0
    out, err = capsys.readouterr()
    assert "epoch 1/1" in out
    assert "Best checkpoint" in out
    assert "GPU available" not in out + err
    (written,) = tmp_path.glob("outputs/*/*/config.yaml")
    cfg = OmegaConf.load(written)
    made = [cfg.trainer, cfg.callbacks.model_checkpoint, cfg.callbacks.learning_rate_monitor, cfg.logger.tensorboard]
    assert [each._target_.partition(".")[0] for each in made] == ["pytorch_lightning"] * 4
    assert cfg.callbacks.gradient_monitor._target_.startswith("lightning_gradtools.")
    assert list(tmp_path.glob("outputs/*/*/tensorboard/events*"))


def test_what_the_config_names_of_the_other_package_is_taken_from_the_models(train, tmp_path):
    stop = "+callbacks.stop={_target_: pytorch_lightning.callbacks.EarlyStopping, monitor: val/loss}"
    assert train("user_package.Module", "user_package.Data", stop) == 0
    (written,) = tmp_path.glob("outputs/*/*/config.yaml")
    assert OmegaConf.load(written).callbacks.stop._target_ == "lightning.pytorch.callbacks.EarlyStopping"


def test_the_range_test_and_the_batch_size_work_too(train, capsys):
    tune = ("tune=lr", "tune.num_steps=20", "tune.noise_steps=2")
    assert train("other_package.Module", "other_package.Data", *tune) == 0
    assert "Batch size" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "data", "named"),
    [
        ("other_package.Module", "user_package.Data", "user_package.Data"),
        ("user_package.Module", "other_package.Data", "other_package.Data"),
        ("other_package.Module", None, "lightning_gradtools.tasks.DigitsData"),
    ],
)
def test_data_of_the_other_package_are_refused_in_a_line_that_says_what_to_do(train, capsys, model, data, named):
    assert train(model, data) == 1
    (line,) = [each for each in capsys.readouterr().err.splitlines() if each.startswith("Error")]
    assert line.startswith(f"Error: data._target_={named}: is a data module of ")
    assert "must be of one package: import LightningModule and LightningDataModule from the same" in line
