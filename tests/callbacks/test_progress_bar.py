import sys

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.callbacks import ProgressBar


class Model(BoringModel):
    def training_step(self, batch, batch_idx):
        loss = self.step(batch)
        self.log("loss_of_the_step", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0625)


def run(tmp_path, bar, **settings):
    trainer = Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[bar],
        **{"max_epochs": 4, "limit_train_batches": 4, "limit_val_batches": 1, "log_every_n_steps": 1, **settings},
    )
    trainer.fit(Model())
    return trainer


def lines(capsys):
    return [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]


def test_without_a_terminal_an_epoch_is_a_line(tmp_path, capsys):
    run(tmp_path, ProgressBar())
    found = lines(capsys)
    assert [words[:4] for words in found] == [["epoch", f"{n}/4", "step", str(4 * n)] for n in range(1, 5)]
    for words in found:
        assert words[-1] == "lr=0.0625"
        assert words[-2].startswith("loss_of_the_step=")


def test_a_second_run_with_the_same_bar_has_lines_of_its_own(tmp_path, capsys):
    bar = ProgressBar()
    for _ in range(2):
        run(tmp_path, bar, max_epochs=1)
    assert [words[1] for words in lines(capsys)] == ["1/1", "1/1"]


def test_max_lines_spaces_the_epochs_and_keeps_the_last(tmp_path, capsys):
    run(tmp_path, ProgressBar(max_lines=2), max_epochs=5)
    assert [words[1] for words in lines(capsys)] == ["3/5", "5/5"]


def test_a_validation_inside_an_epoch_has_a_line_and_none_comes_twice(tmp_path, capsys):
    run(tmp_path, ProgressBar(), max_epochs=-1, max_steps=6, limit_train_batches=8, val_check_interval=2)
    assert [words[1:4] for words in lines(capsys)] == [["1", "step", "2"], ["1", "step", "4"], ["1", "step", "6"]]


def test_with_a_terminal_it_is_lightning_s_bar_with_the_learning_rate(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    run(tmp_path, ProgressBar(), max_epochs=1)
    out = capsys.readouterr().out
    assert "Epoch 0: 100%" in out
    assert "lr=0.0625" in out
    assert "v_num" not in out


def test_max_lines_must_be_positive():
    with pytest.raises(ArgumentError, match="max_lines=0: must be an integer >= 1"):
        ProgressBar(max_lines=0)
