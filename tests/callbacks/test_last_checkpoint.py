"""However a run ends, what is on disk is its newest state, and going on from there gives what an unbroken run gives."""

import os
import random
import shutil
import signal
import time
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.last_checkpoint_cases import FullDisk, one_rank_cannot_save
from helpers.launcher import launch
from helpers.runs import Regression, batches, loader, trainer
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lightning_gradtools import LastCheckpoint, PathologyDetector
from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.tasks.data.loading import TensorPairs, batch_loader

EPOCH = 6  # batches


class RememberingLoader:
    """A loader that knows where it is, as those of torchdata do."""

    def __init__(self):
        self.batches, self.position, self.restored = batches(EPOCH), 0, False

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        if not self.restored:
            self.position = 0
        self.restored = False
        while self.position < len(self.batches):
            self.position += 1
            yield self.batches[self.position - 1]

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position, self.restored = state["position"], True


class ForgetfulLoader:
    """One that begins anew, as a DataLoader does."""

    def __init__(self):
        self.batches = batches(EPOCH)

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


class Model(Regression):
    """Logs what it sees, so that a batch or a validation that is left out or done twice is found."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.seen, self.validated = [], []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch_idx)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.validated.append((self.trainer.global_step, batch_idx))


class Killed(BaseException):
    """What no code catches, as a SIGKILL."""


class At(Callback):
    """Does something in a hook, the ``count``-th time that it is called."""

    def __init__(self, hook, count, action):
        self.left = count

        def act(trainer, *_, **__):
            if trainer.sanity_checking:
                return
            self.left -= 1
            if self.left == 0:
                action(trainer)

        setattr(self, hook, act)


def interrupt(_):
    os.kill(os.getpid(), signal.SIGINT)


def terminate(_):
    os.kill(os.getpid(), signal.SIGTERM)


def stop(trainer):
    trainer.should_stop = True


def fail(_):
    raise RuntimeError("a bug of the user's")


class Run:
    """A run that ends some way or other, in a folder."""

    def __init__(self, folder, *callbacks, resume=False, every_minutes=None, data=RememberingLoader, **settings):
        torch.manual_seed(0)
        self.model = Model()
        self.path = folder / "last.ckpt"
        best = ModelCheckpoint(dirpath=folder, filename="best", monitor="val/loss", enable_version_counter=False)
        self.last = LastCheckpoint(dirpath=folder, every_minutes=every_minutes)
        settings = {"max_epochs": 3, "enable_progress_bar": False, "logger": False, **settings}
        self.trainer = trainer(*callbacks, best, self.last, **settings)
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self.ended_by = None
        try:
            path = self.path if resume else None
            self.trainer.fit(self.model, data(), loader(batches(2)), ckpt_path=path)
        except (Exception, SystemExit, Killed) as error:
            self.ended_by = error
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    @property
    def saved(self):
        return torch.load(self.path)

    def weights(self):
        return torch.nn.utils.parameters_to_vector(self.model.parameters()).detach()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("unbroken"))


pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),  # what ended a run is not in the next
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]

ENDINGS = {
    "the last epoch": ([], {}),
    "an earlier max_epochs": ([], {"max_epochs": 1}),
    "max_steps in mid-epoch": ([], {"max_steps": 8}),
    "max_steps at the end of an epoch": ([], {"max_steps": 12}),
    "max_time": (
        [lambda: At("on_train_batch_start", 9, lambda _: time.sleep(0.6))],
        {"max_time": timedelta(seconds=0.5)},
    ),
    "EarlyStopping": ([lambda: EarlyStopping("val/loss", mode="max", patience=1)], {}),
    "should_stop in mid-epoch": ([lambda: At("on_train_batch_end", 9, stop)], {}),
    "Ctrl-C in a batch": ([lambda: At("on_train_batch_start", 9, interrupt)], {}),
    "Ctrl-C while the optimizer steps": ([lambda: At("on_before_zero_grad", 9, interrupt)], {}),
    "Ctrl-C in the last batch of an epoch": ([lambda: At("on_train_batch_start", 12, interrupt)], {}),
    "Ctrl-C in validation": ([lambda: At("on_validation_batch_start", 4, interrupt)], {}),
    "Ctrl-C in the last validation batch": ([lambda: At("on_validation_batch_end", 4, interrupt)], {}),
    "Ctrl-C at the end of an epoch": ([lambda: At("on_train_epoch_end", 2, interrupt)], {}),
    "Ctrl-C amid mid-epoch validation": (
        [lambda: At("on_validation_batch_start", 4, interrupt)],
        {"val_check_interval": 0.5},
    ),
    "Ctrl-C before mid-epoch validation": (
        [lambda: At("on_train_batch_start", 9, interrupt)],
        {"val_check_interval": 0.5},
    ),
    "SIGTERM in a batch": ([lambda: At("on_train_batch_start", 9, terminate)], {}),
    "SIGTERM in the last batch of an epoch": ([lambda: At("on_train_batch_start", 12, terminate)], {}),
    "SIGTERM in validation": ([lambda: At("on_validation_batch_start", 3, terminate)], {}),
    "an exception at the end of an epoch": ([lambda: At("on_train_epoch_end", 2, fail)], {}),
    "an exception at the start of an epoch": ([lambda: At("on_train_epoch_start", 2, fail)], {}),
    "an exception in validation": ([lambda: At("on_validation_batch_start", 4, fail)], {}),
    "an exception at the end of a batch": ([lambda: At("on_train_batch_end", 9, fail)], {}),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("counting", ["epochs", "steps"])
def test_the_newest_state_is_kept_and_gone_on_from(tmp_path, ending, counting):
    made, settings = ENDINGS[ending]
    whole = {"max_epochs": 3} if counting == "epochs" else {"max_epochs": -1, "max_steps": 3 * EPOCH}
    extra = {key: value for key, value in settings.items() if key == "val_check_interval"}
    unbroken = Run(tmp_path / "unbroken", **whole, **extra)
    broken = Run(tmp_path / "broken", *(make() for make in made), **{**whole, **settings})
    assert broken.saved["global_step"] == broken.trainer.global_step
    assert broken.trainer.global_step == unbroken.trainer.global_step or broken.trainer.global_step < 3 * EPOCH

    resumed = Run(tmp_path / "broken", resume=True, **whole, **extra)
    assert resumed.ended_by is None
    assert resumed.trainer.global_step == 3 * EPOCH
    assert broken.model.seen + resumed.model.seen == unbroken.model.seen
    done = [each for each in broken.model.validated if each[0] <= 3 * EPOCH]
    assert set(done) | set(resumed.model.validated) >= set(unbroken.model.validated)
    assert torch.equal(resumed.weights(), unbroken.weights())
    assert resumed.trainer.current_epoch == unbroken.trainer.current_epoch
    assert resumed.saved["global_step"] == 3 * EPOCH


def test_an_exception_in_a_batch_leaves_a_state_to_go_on_from(tmp_path):
    """The loader has given the batch, and will not give it again: it is left out, and the epoch ends as others do."""
    broken = Run(tmp_path, At("on_train_batch_start", 9, fail))
    assert broken.saved["global_step"] == broken.trainer.global_step == 8
    resumed = Run(tmp_path, resume=True)
    assert resumed.model.seen == [3, 4, 5, *range(EPOCH)]
    assert resumed.trainer.current_epoch == 3
    assert (11, 0) in resumed.model.validated


def test_a_loader_without_memory_gives_as_many_batches_as_were_left(tmp_path):
    Run(tmp_path, At("on_train_batch_start", 9, fail), data=ForgetfulLoader)
    with pytest.warns(UserWarning, match="your dataloader is not resumable"):
        resumed = Run(tmp_path, resume=True, data=ForgetfulLoader)
    assert resumed.model.seen == [2, 3, 4, 5, *range(EPOCH)]
    assert resumed.trainer.global_step == 3 * EPOCH


def test_an_exception_while_the_optimizer_changes_the_weights_keeps_the_checkpoint_before(tmp_path):
    class Torn(torch.optim.AdamW):
        def step(self, closure=None):
            super().step(closure)
            if self.state_dict()["state"][0]["step"] == 9:
                raise RuntimeError("half way")

    before = Model.configure_optimizers
    try:
        Model.configure_optimizers = lambda self: Torn(self.parameters(), lr=0.01)
        broken = Run(tmp_path)
    finally:
        Model.configure_optimizers = before
    assert "half way" in str(broken.ended_by)
    assert broken.saved["global_step"] == EPOCH
    assert broken.trainer.global_step == 8


def test_an_exception_before_the_first_batch_keeps_what_an_earlier_run_left(tmp_path):
    Run(tmp_path, max_epochs=1)
    before = (tmp_path / "last.ckpt").read_bytes()
    for hook in ("setup", "on_fit_start", "on_train_start"):
        broken = Run(tmp_path, At(hook, 1, fail), resume=True)
        assert isinstance(broken.ended_by, RuntimeError)
        assert (tmp_path / "last.ckpt").read_bytes() == before


def test_a_ctrl_c_waits_until_gradients_of_several_batches_were_used(tmp_path):
    accumulating = {"accumulate_grad_batches": 3}
    whole = Run(tmp_path / "whole", **accumulating)
    broken = Run(tmp_path / "broken", At("on_train_batch_start", 8, interrupt), **accumulating)
    assert broken.model.seen == [0, 1, 2, 3, 4, 5, 0, 1, 2]
    resumed = Run(tmp_path / "broken", resume=True, **accumulating)
    assert torch.equal(resumed.weights(), whole.weights())


def test_a_second_ctrl_c_does_not_wait(tmp_path):
    def twice(run):
        interrupt(run)
        interrupt(run)

    later = At("on_before_zero_grad", 9, lambda _: pytest.fail("the batch went on"))
    broken = Run(tmp_path, At("on_train_batch_start", 9, twice), later)
    assert isinstance(broken.ended_by, SystemExit)
    assert broken.saved["global_step"] == broken.trainer.global_step == 8


@pytest.mark.parametrize("ending", [[], [At("on_train_batch_end", 3, fail)], [At("on_validation_end", 1, interrupt)]])
def test_ctrl_c_is_afterwards_what_it_was(tmp_path, ending):
    seen = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append(1))
    try:
        Run(tmp_path, *ending)
        assert signal.getsignal(signal.SIGINT)(signal.SIGINT, None) is None
        assert seen[-1:] == [1]
    finally:
        signal.signal(signal.SIGINT, before)


def saved_steps(folder, *callbacks, **settings):
    """The steps at which there is another checkpoint, seen at the start of each batch and after training."""
    found = []

    class Look(Callback):
        def on_train_batch_start(self, *_):
            if (folder / "last.ckpt").exists():
                found.append(torch.load(folder / "last.ckpt")["global_step"])

    run = Run(folder, Look(), *callbacks, **settings)
    return sorted({*found, run.saved["global_step"]})


def test_within_an_epoch_it_is_saved_when_the_time_has_come(tmp_path):
    assert saved_steps(tmp_path / "ends", max_epochs=2) == [6, 12]
    assert saved_steps(tmp_path / "always", max_epochs=2, every_minutes=0) == list(range(1, 13))
    slow = At("on_train_batch_start", 3, lambda _: time.sleep(0.25))
    assert saved_steps(tmp_path / "once", slow, max_epochs=2, every_minutes=0.2 / 60) == [3, 6, 12]


def test_a_kill_in_the_middle_of_a_save_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    """Wherever the writing stops, the file at the path is a whole one."""
    Run(tmp_path, max_epochs=1)
    before = (tmp_path / "last.ckpt").read_bytes()
    renamed = []

    def killed(old, new):
        renamed.append((os.path.basename(old), os.path.basename(new)))
        raise Killed

    monkeypatch.setattr(os, "replace", killed)
    Run(tmp_path, resume=True, max_epochs=2)
    assert ("last.ckpt.part", "last.ckpt") in renamed
    assert (tmp_path / "last.ckpt").read_bytes() == before


def test_a_full_disk_ends_no_training_and_leaves_the_checkpoint_before(tmp_path):
    """Said once as long as it lasts, and tried again when the next save is due."""
    before = {}

    def look(run):
        before[run.current_epoch] = torch.load(tmp_path / "last.ckpt")["global_step"], {*os.listdir(tmp_path)}

    with pytest.warns(UserWarning, match="LastCheckpoint: could not save") as told:
        run = Run(tmp_path, At("on_train_epoch_end", 4, look), plugins=[FullDisk(2, 3)], max_epochs=5)
    assert run.ended_by is None
    assert run.trainer.global_step == run.saved["global_step"] == 5 * EPOCH
    messages = [str(each.message) for each in told if "could not save" in str(each.message)]
    assert len(messages) == 1
    assert "No space left on device" in messages[0]
    assert before == {3: (EPOCH, {"last.ckpt", "best.ckpt"})}


def test_a_full_disk_at_the_end_of_training_is_no_error(tmp_path):
    with pytest.warns(UserWarning, match="could not save at step 6; training goes on"):
        run = Run(tmp_path, plugins=[FullDisk(1, 2, 3)], max_epochs=1)
    assert run.ended_by is None
    assert not run.path.exists()


@pytest.mark.parametrize("place", ["write", "rename"])
def test_a_rank_that_cannot_save_neither_stops_the_others_nor_training(place):
    first, second = launch(one_rank_cannot_save, place)
    assert first["seen"] == second["seen"] == [(3, None), (6, 3), (9, 3), (9, 9)]
    assert first["left"] == ["last.ckpt"]
    (message,) = first["messages"]
    assert message.startswith("LastCheckpoint: could not save at step 6; training goes on")
    assert second["messages"] == []


def test_a_detector_that_stops_the_run_leaves_its_newest_state(tmp_path):
    detector = PathologyDetector(every_n_steps=1, on_critical="stop", dirpath=tmp_path, table=False)
    poison = At("on_train_batch_start", 9, lambda run: run.lightning_module.net[0].weight.data.fill_(float("nan")))
    with pytest.warns(UserWarning, match="NaN"):
        broken = Run(tmp_path, poison, detector)
    assert 8 < broken.trainer.global_step < 3 * EPOCH
    assert broken.saved["global_step"] == broken.trainer.global_step


def test_a_step_on_a_plateau_belongs_to_the_epoch_that_was_saved(tmp_path, monkeypatch):
    def configure(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.01)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "max", factor=0.5, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val/loss"}}

    monkeypatch.setattr(Model, "configure_optimizers", configure)
    whole = Run(tmp_path / "whole")
    assert whole.trainer.optimizers[0].param_groups[0]["lr"] < 0.01
    Run(tmp_path / "broken", max_epochs=2)
    resumed = Run(tmp_path / "broken", resume=True)
    assert resumed.trainer.optimizers[0].param_groups[0]["lr"] == whole.trainer.optimizers[0].param_groups[0]["lr"]
    assert torch.equal(resumed.weights(), whole.weights())


def test_it_changes_nothing_and_saves_nothing_where_nothing_is_trained(tmp_path, unbroken):
    torch.manual_seed(0)
    model = Model()
    without = trainer(max_epochs=3, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    without.fit(model, RememberingLoader(), loader(batches(2)))
    assert torch.equal(torch.nn.utils.parameters_to_vector(model.parameters()), unbroken.weights())
    tried = Run(tmp_path, fast_dev_run=True)
    assert tried.ended_by is None
    tried.trainer.validate(tried.model, loader(batches(2)))
    assert not tried.path.exists()


def test_the_folder_is_the_trainer_s_if_none_is_given(tmp_path):
    last = LastCheckpoint(every_minutes=None)
    trainer(last, logger=False, default_root_dir=tmp_path, enable_progress_bar=False).fit(Model(), loader(batches(2)))
    assert last.last_model_path == str(tmp_path / "checkpoints" / "last.ckpt")
    assert torch.load(last.last_model_path)["global_step"] == 2


def test_arguments_are_checked():
    with pytest.raises(ArgumentError, match="every_minutes=-1: must be a finite number >= 0"):
        LastCheckpoint(every_minutes=-1)
    with pytest.raises(ArgumentError, match="dirpath='s3://bucket': must be a folder on a local disk"):
        LastCheckpoint("s3://bucket")
    assert repr(LastCheckpoint("runs", every_minutes=2)) == "LastCheckpoint(dirpath='runs', every_minutes=2)"


class Dropping(Regression):
    """What it computes depends on the random numbers of torch, NumPy and Python."""

    def training_step(self, batch, batch_idx):
        noise = float(np.random.rand()) + random.random()  # noqa: NPY002
        return F.dropout(super().training_step(batch, batch_idx).expand(8), 0.5).mean() * (1 + noise)


def test_dropout_goes_on_with_the_numbers_that_it_would_have_drawn(tmp_path):
    def run(saves=None, ckpt_path=None):
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(1 if ckpt_path is None else 2)
        module = Dropping()
        more = [] if saves is None else [Copies(saves)]
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=2,
            log_every_n_steps=1,
            callbacks=[LastCheckpoint(tmp_path / "last", every_minutes=0), *more],
        )
        x, y = (torch.cat(part) for part in zip(*batches(), strict=True))
        trainer.fit(module, batch_loader(TensorPairs(x, y), 8, shuffle_seed=0), loader(batches(2)), ckpt_path=ckpt_path)
        return torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])

    class Copies(Callback):
        """Keeps each of the checkpoints, as a kill might come after any."""

        def __init__(self, folder):
            self.folder = folder
            folder.mkdir()

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            last = tmp_path / "last" / "last.ckpt"
            if last.exists():
                shutil.copy(last, self.folder / f"{trainer.global_step}.ckpt")

    whole = run(saves=tmp_path / "saved")
    saved = sorted((tmp_path / "saved").iterdir())
    assert len(saved) == 11
    for checkpoint in saved:
        assert torch.equal(run(ckpt_path=checkpoint), whole), checkpoint.name
