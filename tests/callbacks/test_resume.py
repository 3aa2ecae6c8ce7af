"""A run that goes on from a checkpoint is the run that was not interrupted, under each of our callbacks."""

from functools import partial

import pytest
import torch
from helpers.runs import Regression, batches, trainer
from lightning.pytorch import Callback
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.optim import lr_scheduler

import lightning_gradtools
from lightning_gradtools.callbacks import (
    GradientCheck,
    GradientClipping,
    GradientMonitor,
    HessianSpectrum,
    LastCheckpoint,
    PathologyDetector,
    ProgressBar,
    TorchLRScheduler,
    WarmupCosineSchedule,
    WeightInitialization,
)

BATCHES = 7

CALLBACKS = {
    "GradientCheck": partial(GradientCheck, on_failure="warn"),
    "GradientClipping": partial(GradientClipping, percentile=50.0, warmup_steps=2, window=4),
    "GradientMonitor": partial(GradientMonitor, weight_norm=True, update_ratio=True, cosine=True),
    "HessianSpectrum": partial(HessianSpectrum, every_n_steps=2, top_k=2),
    "PathologyDetector": partial(PathologyDetector, every_n_steps=1, on_warning="log", on_critical="log"),
    "LastCheckpoint": LastCheckpoint,
    "ProgressBar": ProgressBar,
    "TorchLRScheduler": partial(TorchLRScheduler, partial(lr_scheduler.OneCycleLR, max_lr=0.1)),
    "WarmupCosineSchedule": partial(WarmupCosineSchedule, warmup_steps=3),
    "WeightInitialization": partial(WeightInitialization, seed=1),
}


class Stateful:
    """A loader that knows where in its epoch it is, and can go on from there, as torchdata's StatefulDataLoader."""

    def __init__(self, data):
        self.data, self.position, self.start = data, 0, 0

    def __len__(self):
        return len(self.data)

    def __iter__(self):
        first, self.start = self.start, 0
        for index in range(first, len(self.data)):
            self.position = index + 1
            yield self.data[index]

    def state_dict(self):
        return {"position": self.position % len(self.data)}

    def load_state_dict(self, state):
        self.start = state["position"]


class Recorder(Callback):
    """What each batch was, and the learning rate of each step; and a checkpoint at the end of each batch."""

    def __init__(self, folder=None):
        self.folder, self.seen, self.rates = folder, [], []

    def on_train_start(self, trainer, pl_module):
        (optimizer,) = trainer.optimizers
        self.hook = optimizer.register_step_pre_hook(lambda o, *_: self.rates.append(o.param_groups[0]["lr"]))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append(batch[0].flatten().tolist())
        if self.folder is not None:
            trainer.save_checkpoint(self.folder / f"{len(self.seen)}.ckpt")


@pytest.fixture
def train(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def train(*callbacks, save=False, ckpt_path=None, **settings):
        """Return the batches, the rates and the weights; save at each batch, or go on from a batch of the run saved."""
        torch.manual_seed(0 if save else 1)
        module, recorder = Regression(), Recorder(tmp_path if save else None)
        run = trainer(*callbacks, recorder, **{"max_epochs": 3, "enable_model_summary": False, **settings})
        path = None if ckpt_path is None else tmp_path / f"{ckpt_path}.ckpt"
        run.fit(module, Stateful(batches(BATCHES)), ckpt_path=path)
        weights = torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])
        return recorder.seen, recorder.rates, weights

    return train


def test_every_callback_is_looked_at():
    public = [getattr(lightning_gradtools, name) for name in lightning_gradtools.__all__]
    names = {each.__name__ for each in public if isinstance(each, type) and issubclass(each, Callback)}
    assert names == CALLBACKS.keys()


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_run_resumed_in_the_middle_of_an_epoch_is_the_run_that_was_not_interrupted(train, name):
    seen, rates, weights = train(CALLBACKS[name](), save=True)
    for position in (3, BATCHES + 1, 2 * BATCHES + 6):
        resumed = train(CALLBACKS[name](), ckpt_path=position)
        assert resumed[0] == seen[position:]
        assert resumed[1] == rates[position:]
        assert torch.equal(resumed[2], weights)


@pytest.mark.parametrize("name", ["TorchLRScheduler", "WarmupCosineSchedule", "WeightInitialization"])
def test_where_the_checkpoint_is_read_after_fit_start(train, name):
    """As under FSDP and ModelParallelStrategy."""

    class Late(SingleDeviceStrategy):
        restore_checkpoint_after_setup = True

    seen, rates, weights = train(CALLBACKS[name](), save=True, strategy=Late(device="cpu"))
    resumed = train(CALLBACKS[name](), ckpt_path=BATCHES + 3, strategy=Late(device="cpu"))
    assert (resumed[0], resumed[1]) == (seen[BATCHES + 3 :], rates[BATCHES + 3 :])
    assert torch.equal(resumed[2], weights)


@pytest.mark.parametrize("name", ["TorchLRScheduler", "WarmupCosineSchedule"])
def test_at_every_position_in_two_epochs(train, name):
    seen, rates, weights = train(CALLBACKS[name](), save=True, max_epochs=2)
    for position in range(1, 2 * BATCHES):
        resumed = train(CALLBACKS[name](), ckpt_path=position, max_epochs=2)
        assert (resumed[0], resumed[1]) == (seen[position:], rates[position:])
        assert torch.equal(resumed[2], weights)


@pytest.mark.parametrize("name", ["TorchLRScheduler", "WarmupCosineSchedule"])
def test_under_accumulation(train, name):
    """Inside a window Lightning does not save the gradients gathered so far; the batches and the rates hold."""
    run = partial(train, accumulate_grad_batches=3, max_epochs=2)
    seen, rates, weights = run(CALLBACKS[name](), save=True)
    assert len(rates) == 6
    for position in (2, 3, BATCHES, BATCHES + 2, BATCHES + 6):
        resumed = run(CALLBACKS[name](), ckpt_path=position)
        assert resumed[0] == seen[position:]
        assert resumed[1] == rates[len(rates) - len(resumed[1]) :]
        if position in (3, BATCHES, BATCHES + 6):
            assert torch.equal(resumed[2], weights)
