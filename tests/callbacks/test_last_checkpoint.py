"""However a run ends, what is on disk is its newest state, and going on from there gives what an unbroken run gives."""

import os
import signal
import time
from datetime import timedelta

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lightning_gradtools import LastCheckpoint, PathologyDetector
from lightning_gradtools.arguments import ArgumentError
from tests.helpers.runs import Regression, batches, loader, trainer

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


class At(Callback):
    """Does something in a hook, the ``count``-th time that it is called."""

    def __init__(self, hook, count, action):
        self.left = count

        def act(trainer, *_):
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

    def __init__(self, folder, *callbacks, resume=False, every_minutes=None, **settings):
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
            self.trainer.fit(self.model, RememberingLoader(), loader(batches(2)), ckpt_path=path)
        except (Exception, SystemExit) as error:
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
    "max_time": ([lambda: At("on_train_batch_start", 9, lambda _: time.sleep(0.6))], {"max_time": timedelta(seconds=0.5)}),
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
