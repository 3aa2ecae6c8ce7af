import math

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader, TensorDataset

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.callbacks.lr_range_test import LRRangeTest, lr_range_test, steepest_descent
from lightning_gradtools.callbacks.warmup_cosine_schedule import WarmupCosineSchedule


def test_steepest_descent_on_a_known_curve():
    rates = [10 ** (-6 + 6 * i / 99) for i in range(100)]
    losses = [1 / (1 + math.exp(4 * (math.log10(rate) + 3))) for rate in rates]  # falls fastest at 10^-3
    assert math.log10(steepest_descent(rates, losses)) == pytest.approx(-3, abs=0.06)
    losses[40] = math.nan
    assert steepest_descent(rates, losses) is not None
    assert steepest_descent(rates, losses[::-1]) is None
    assert steepest_descent(rates[:3], losses[:3]) is None


class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.BatchNorm1d(16), torch.nn.Linear(16, 1))

    def training_step(self, batch, batch_idx):
        data, target = batch
        return (self.net(data) - target).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)

    def train_dataloader(self):
        data = torch.randn(5120, 8, generator=torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(data, data.sum(1, keepdim=True)), batch_size=64, shuffle=True)


def trainer_in(folder, *callbacks, **arguments):
    return Trainer(
        **{"max_epochs": 1, "logger": False, **arguments},
        accelerator="cpu",
        devices=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=10,
        default_root_dir=folder,
        callbacks=list(callbacks),
    )


def test_suggests_a_rate_that_learns_and_leaves_no_trace(tmp_path):
    torch.manual_seed(0)
    net, plain = Net(), Net()
    plain.load_state_dict(net.state_dict())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    random_state = torch.get_rng_state()
    logger = TensorBoardLogger(tmp_path / "tensorboard")
    trainer = trainer_in(tmp_path, logger=logger)

    result = lr_range_test(trainer, net, num_steps=80)

    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert trainer.global_step == 0
    assert not any(tmp_path.glob(".lr_find*"))
    assert result.figure == tmp_path / "lr_range_test.png"
    assert result.figure.read_bytes()[:4] == b"\x89PNG"
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    assert len(events.Images("learning_rate/range_test")) == 1
    assert len(result.rates) == len(result.losses) <= 80
    assert 1e-3 < result.suggestion < 1
    assert result.override("optimizer.lr") == f"optimizer.lr={result.suggestion:.3g}"

    # Training afterwards is what it would have been.
    torch.set_rng_state(random_state)
    trainer_in(tmp_path).fit(net)
    torch.set_rng_state(random_state)
    trainer_in(tmp_path).fit(plain)
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in net.state_dict().items())


def test_callbacks_that_change_the_network_take_part_and_are_undone(tmp_path):
    seen = []

    class Zero(Callback):
        def on_fit_start(self, trainer, pl_module):
            for parameter in pl_module.parameters():
                parameter.data.zero_()

    class Look(Net):
        def training_step(self, batch, batch_idx):
            seen.append(self.net[0].weight.abs().max().item())
            return super().training_step(batch, batch_idx)

    net = Look()
    before = net.net[0].weight.clone()
    trainer = trainer_in(tmp_path, callback := Zero())
    lr_range_test(trainer, net, num_steps=30)
    assert seen[0] == 0
    assert torch.equal(net.net[0].weight, before)
    assert trainer.callbacks == [callback]


def test_the_schedule_stays_out_of_the_way(tmp_path):
    used = []

    class Spy(Callback):
        def on_fit_start(self, trainer, pl_module):
            (optimizer,) = trainer.optimizers
            optimizer.register_step_pre_hook(lambda o, *_: used.append(o.param_groups[0]["lr"]))

    trainer = trainer_in(tmp_path, Spy(), WarmupCosineSchedule(warmup_steps=5))
    result = lr_range_test(trainer, Net(), num_steps=30)
    assert used == list(result.rates)


def test_bad_arguments_are_named(tmp_path):
    trainer = trainer_in(tmp_path)
    with pytest.raises(ArgumentError, match=r"^max_lr=1e-07"):
        lr_range_test(trainer, Net(), max_lr=1e-7)
    with pytest.raises(ArgumentError, match=r"^num_steps=5"):
        lr_range_test(trainer, Net(), num_steps=5)
    with pytest.raises(ArgumentError, match=r"^fast_dev_run"):
        lr_range_test(trainer_in(tmp_path, fast_dev_run=True), Net())
    with pytest.raises(ArgumentError, match=r"^suggestion=None"):
        LRRangeTest((), (), None, None).override("optimizer.lr")
