from functools import partial

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.callbacks.torch_lr_scheduler import TorchLRScheduler

BATCHES, EPOCHS = 6, 4


class Net(LightningModule):
    def __init__(self, scheduler=None):
        super().__init__()
        self.layer, self.make_scheduler = torch.nn.Linear(4, 1), scheduler

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch).square().mean()
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return optimizer if self.make_scheduler is None else ([optimizer], [self.make_scheduler(optimizer)])

    def train_dataloader(self):
        return DataLoader(torch.ones(BATCHES * 2, 4), batch_size=2)


class Spy(Callback):
    def on_train_start(self, trainer, pl_module):
        self.used, (optimizer,) = [], trainer.optimizers
        optimizer.register_step_pre_hook(lambda o, *_: self.used.append(o.param_groups[0]["lr"]))


@pytest.fixture
def fit(tmp_path):
    def fit(module, *callbacks, ckpt_path=None, **arguments):
        spy = Spy()
        trainer = Trainer(
            **{"max_epochs": EPOCHS, **arguments},
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
            callbacks=[*callbacks, spy],
        )
        trainer.fit(module, ckpt_path=ckpt_path)
        return spy.used

    return fit


def by_torch(make, steps, every=1):
    """The rates of torch's scheduler in a plain loop, stepped after every so many optimizer steps."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler, rates = make(optimizer), []
    for step in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if (step + 1) % every == 0:
            scheduler.step()
    return rates


TOTAL = BATCHES * EPOCHS


@pytest.mark.parametrize(
    ("scheduler", "options", "oracle", "every"),
    [
        (partial(lr_scheduler.StepLR, step_size=2), {}, partial(lr_scheduler.StepLR, step_size=2), BATCHES),
        (lr_scheduler.CosineAnnealingLR, {}, partial(lr_scheduler.CosineAnnealingLR, T_max=EPOCHS), BATCHES),
        (
            lr_scheduler.CosineAnnealingLR,
            {"interval": "step"},
            partial(lr_scheduler.CosineAnnealingLR, T_max=TOTAL),
            1,
        ),
        (
            partial(lr_scheduler.OneCycleLR, max_lr=1.0),
            {},
            partial(lr_scheduler.OneCycleLR, max_lr=1.0, total_steps=TOTAL),
            1,
        ),
        (
            partial(lr_scheduler.CyclicLR, base_lr=0.1, max_lr=1.0, step_size_up=4),
            {},
            partial(lr_scheduler.CyclicLR, base_lr=0.1, max_lr=1.0, step_size_up=4),
            1,
        ),
        (lr_scheduler.PolynomialLR, {}, partial(lr_scheduler.PolynomialLR, total_iters=EPOCHS), BATCHES),
        (
            partial(lr_scheduler.ExponentialLR, gamma=0.5),
            {"frequency": 2},
            partial(lr_scheduler.ExponentialLR, gamma=0.5),
            2 * BATCHES,
        ),
    ],
)
def test_rates_are_those_of_torchs_scheduler_stepped_by_hand(fit, scheduler, options, oracle, every):
    assert fit(Net(), TorchLRScheduler(scheduler, **options)) == by_torch(oracle, TOTAL, every)


def test_one_cycle_under_accumulation_ends_with_the_run(fit):
    one_cycle = partial(lr_scheduler.OneCycleLR, max_lr=1.0)
    used = fit(Net(), TorchLRScheduler(one_cycle), accumulate_grad_batches=4)
    assert used == by_torch(partial(one_cycle, total_steps=2 * EPOCHS), 2 * EPOCHS)


def test_reduce_on_plateau_watches_its_monitor(fit):
    plateau = partial(lr_scheduler.ReduceLROnPlateau, factor=0.5, patience=0, threshold=10.0, threshold_mode="abs")
    used = fit(Net(), TorchLRScheduler(plateau, monitor="loss"))
    # The first epoch sets the best, every later one is no better by 10.
    assert used == [0.1 * 0.5 ** max(0, step // BATCHES - 1) for step in range(TOTAL)]


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
def test_resumes_exactly(fit, tmp_path):
    class Save(Callback):
        def on_train_batch_end(self, trainer, *args):
            trainer.save_checkpoint(tmp_path / f"{trainer.global_step}.ckpt")

    one_cycle = partial(lr_scheduler.OneCycleLR, max_lr=1.0)
    used = fit(Net(), TorchLRScheduler(one_cycle), Save())
    assert fit(Net(), TorchLRScheduler(one_cycle), ckpt_path=tmp_path / "9.ckpt") == used[9:]


def test_a_module_with_its_own_scheduler_is_refused_unless_replaced(fit):
    own = partial(lr_scheduler.StepLR, step_size=1)
    halve = partial(lr_scheduler.ExponentialLR, gamma=0.5)
    with pytest.raises(ArgumentError, match=r"^replace=False: Net already has .*StepLR"):
        fit(Net(own), TorchLRScheduler(halve))
    assert fit(Net(own), TorchLRScheduler(halve, replace=True)) == by_torch(halve, TOTAL, BATCHES)


def test_what_cannot_work_is_refused(fit):
    with pytest.raises(ArgumentError, match=r"^monitor=None: must be, for ReduceLROnPlateau, the name"):
        TorchLRScheduler(lr_scheduler.ReduceLROnPlateau)
    with pytest.raises(ArgumentError, match=r"^monitor='loss': must be, for StepLR, None"):
        TorchLRScheduler(partial(lr_scheduler.StepLR, step_size=1), monitor="loss")
    with pytest.raises(ArgumentError, match=r"^interval='batch'"):
        TorchLRScheduler(lr_scheduler.ExponentialLR, interval="batch")
    with pytest.raises(ArgumentError, match=r"^frequency=0"):
        TorchLRScheduler(lr_scheduler.ExponentialLR, frequency=0)
    with pytest.raises(ArgumentError, match=r"^scheduler=.*must be a class of torch"):
        TorchLRScheduler(torch.optim.SGD)
    with pytest.raises(ArgumentError, match=r"^total_steps=None: must be given for OneCycleLR"):
        fit(Net(), TorchLRScheduler(partial(lr_scheduler.OneCycleLR, max_lr=1.0)), max_epochs=-1)
    manual = Net()
    manual.automatic_optimization = False
    with pytest.raises(ArgumentError, match="manual optimisation"):
        fit(manual, TorchLRScheduler(lr_scheduler.ExponentialLR))
