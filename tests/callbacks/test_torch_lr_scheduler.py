from functools import partial

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning, StochasticWeightAveraging
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
    used = fit(Net(), TorchLRScheduler(one_cycle), accumulate_grad_batches=4)
    assert used == by_torch(partial(one_cycle, total_steps=2 * EPOCHS), 2 * EPOCHS)


def test_reduce_on_plateau_watches_its_monitor(fit):
    plateau = partial(lr_scheduler.ReduceLROnPlateau, factor=0.5, patience=0, threshold=10.0, threshold_mode="abs")
    used = fit(Net(), TorchLRScheduler(plateau, monitor="loss"))
    # The first epoch sets the best, every later one is no better by 10.
    assert used == [0.1 * 0.5 ** max(0, step // BATCHES - 1) for step in range(TOTAL)]


# ---- resume

resuming = pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
one_cycle = partial(lr_scheduler.OneCycleLR, max_lr=1.0)


class Save(Callback):
    """A checkpoint after each batch and, as ``end``, after the last epoch."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_end(self, trainer, *args):
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.save_checkpoint(self.folder / f"epoch-{trainer.current_epoch + 1}.ckpt")


def by_torch_from(position, make, steps, every=1):
    """The rates of :func:`by_torch` from a step on, up to rounding: torch's own come each from the one before."""
    return pytest.approx(by_torch(make, steps, every)[position:], rel=1e-9, abs=1e-15)


@resuming
@pytest.mark.parametrize("scheduler", [one_cycle, lr_scheduler.CosineAnnealingLR, lr_scheduler.PolynomialLR])
def test_resumes_exactly(fit, tmp_path, scheduler):
    used = fit(Net(), TorchLRScheduler(scheduler, interval="step"), Save(tmp_path))
    for step in (1, 9, BATCHES, TOTAL - 1):
        schedule = TorchLRScheduler(scheduler, interval="step")
        assert fit(Net(), schedule, ckpt_path=tmp_path / f"{step}.ckpt") == used[step:]


@resuming
@pytest.mark.parametrize("step", ["9", f"epoch-{EPOCHS}"])
@pytest.mark.parametrize(
    ("scheduler", "argument", "interval"),
    [
        (one_cycle, "total_steps", "step"),
        (lr_scheduler.CosineAnnealingLR, "T_max", "step"),
        (partial(lr_scheduler.CosineAnnealingLR, eta_min=0.01), "T_max", "epoch"),
        (partial(lr_scheduler.PolynomialLR, power=2.0), "total_iters", "step"),
        (lr_scheduler.PolynomialLR, "total_iters", "epoch"),
    ],
)
def test_an_extended_run_continues_on_the_longer_curve_and_says_so(
    fit, tmp_path, caplog, scheduler, argument, interval, step
):
    fit(Net(), TorchLRScheduler(scheduler, interval=interval), Save(tmp_path))
    with caplog.at_level("INFO"):
        checkpoint = tmp_path / f"{step}.ckpt"
        used = fit(Net(), TorchLRScheduler(scheduler, interval=interval), ckpt_path=checkpoint, max_epochs=2 * EPOCHS)
    (before, after), every = ((TOTAL, 2 * TOTAL), 1) if interval == "step" else ((EPOCHS, 2 * EPOCHS), BATCHES)
    position = 2 * TOTAL - len(used)
    assert position == (9 if step == "9" else TOTAL)
    assert used == by_torch_from(position, partial(scheduler, **{argument: after}), 2 * TOTAL, every)
    assert f"had {argument}={before} when the checkpoint was saved, has {after} now: at {interval}" in caplog.text


@resuming
def test_the_momentum_of_one_cycle_is_the_longer_curves_too(fit, tmp_path):
    class Momentum(Callback):
        def on_train_batch_start(self, trainer, *args):
            self.seen = getattr(self, "seen", {})
            self.seen.setdefault(trainer.global_step, trainer.optimizers[0].param_groups[0]["momentum"])

    long, resumed = Momentum(), Momentum()
    fit(Net(), TorchLRScheduler(one_cycle), long, max_epochs=2 * EPOCHS)
    fit(Net(), TorchLRScheduler(one_cycle), Save(tmp_path))
    fit(Net(), TorchLRScheduler(one_cycle), resumed, ckpt_path=tmp_path / "9.ckpt", max_epochs=2 * EPOCHS)
    assert resumed.seen == {step: long.seen[step] for step in range(9, 2 * TOTAL)}


@resuming
def test_a_length_that_is_given_stays_and_so_does_what_is_no_length(fit, tmp_path, caplog):
    given = partial(lr_scheduler.CosineAnnealingLR, T_max=EPOCHS)
    halve = partial(lr_scheduler.StepLR, step_size=2, gamma=0.5)
    ramp = partial(lr_scheduler.LinearLR, start_factor=0.5, total_iters=3)
    for scheduler in (given, halve, ramp):
        fit(Net(), TorchLRScheduler(scheduler), Save(tmp_path))
        with caplog.at_level("INFO"):
            used = fit(Net(), TorchLRScheduler(scheduler), ckpt_path=tmp_path / "9.ckpt", max_epochs=2 * EPOCHS)
        assert used == by_torch(scheduler, 2 * TOTAL, BATCHES)[9:]
    assert "TorchLRScheduler" not in caplog.text


@resuming
def test_another_given_length_is_the_one_that_counts(fit, tmp_path, caplog):
    fit(Net(), TorchLRScheduler(partial(one_cycle, total_steps=TOTAL)), Save(tmp_path))
    longer = partial(one_cycle, epochs=2, steps_per_epoch=TOTAL)
    with caplog.at_level("INFO"):
        used = fit(Net(), TorchLRScheduler(longer), ckpt_path=tmp_path / "9.ckpt")
    assert used == by_torch_from(9, longer, TOTAL)
    assert f"had total_steps={TOTAL} when" in caplog.text


@resuming
def test_more_steps_than_the_derived_length_stay_at_the_last_rate_of_one_cycle(fit, tmp_path):
    fit(Net(), TorchLRScheduler(one_cycle), Save(tmp_path), max_epochs=2)
    fewer = {"max_epochs": 2, "accumulate_grad_batches": 3}
    used = fit(Net(), TorchLRScheduler(one_cycle), ckpt_path=tmp_path / "7.ckpt", **fewer)
    end = by_torch(partial(one_cycle, total_steps=4), 4)[-1]
    assert used == pytest.approx([end] * 2)
    used = fit(Net(), TorchLRScheduler(one_cycle), ckpt_path=tmp_path / "6.ckpt", accumulate_grad_batches=3)
    planned = by_torch(partial(one_cycle, total_steps=2 * EPOCHS), 2 * EPOCHS)
    assert used == pytest.approx(planned[6:] + planned[-1:] * (len(used) - 2))
    assert len(used) == 6
    fit(Net(), TorchLRScheduler(one_cycle), Save(tmp_path), accumulate_grad_batches=3)
    used = fit(Net(), TorchLRScheduler(one_cycle), ckpt_path=tmp_path / "2.ckpt", accumulate_grad_batches=1)
    assert len(used) == TOTAL - 8  # two steps were made when eight batches were seen
    assert used == by_torch_from(2, partial(one_cycle, total_steps=TOTAL), len(used) + 2)


@resuming
def test_a_checkpoint_without_a_scheduler_starts_it_and_says_so(fit, tmp_path):
    fit(Net(), Save(tmp_path))
    with pytest.warns(UserWarning, match=r"holds no state of a scheduler, so OneCycleLR starts now, at step 9 of"):
        used = fit(Net(), TorchLRScheduler(one_cycle), ckpt_path=tmp_path / "9.ckpt")
    assert used == by_torch(partial(one_cycle, total_steps=TOTAL), TOTAL)[: TOTAL - 9]


@resuming
@pytest.mark.parametrize(
    ("saved", "now", "wrong"),
    [
        (lr_scheduler.CosineAnnealingLR, partial(lr_scheduler.StepLR, step_size=1), "step_size is missing"),
        (partial(lr_scheduler.StepLR, step_size=1), partial(lr_scheduler.ExponentialLR, gamma=0.5), "size is unknown"),
        (
            lr_scheduler.CosineAnnealingLR,
            partial(lr_scheduler.LambdaLR, lr_lambda=float),
            "lr_lambdas is missing, T_max is unknown",
        ),
        (lr_scheduler.CosineAnnealingLR, one_cycle, "total_steps is missing"),
    ],
)
def test_the_state_of_another_scheduler_is_refused_in_one_line(fit, tmp_path, saved, now, wrong):
    fit(Net(), TorchLRScheduler(saved), Save(tmp_path))
    with pytest.raises(ArgumentError, match=rf"^scheduler=\w+: cannot go on from the scheduler state.*{wrong}.*$"):
        fit(Net(), TorchLRScheduler(now), ckpt_path=tmp_path / "9.ckpt")


# ---- groups added while training


class Grows(Net):
    """A second layer, and an optimizer of the first alone."""

    def __init__(self):
        super().__init__()
        self.backbone = torch.nn.Linear(4, 4)

    def training_step(self, batch, batch_idx):
        return super().training_step(self.backbone(batch), batch_idx)

    def configure_optimizers(self):
        return torch.optim.SGD(self.layer.parameters(), lr=0.1, momentum=0.9)


class Unfreeze(BaseFinetuning):
    """Adds the backbone at the given epoch, at a rate of 0.04."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == self.epoch:
            self.unfreeze_and_add_param_group(pl_module.backbone, optimizer, lr=0.04)


class Groups(Callback):
    """The rates of all groups at each step."""

    def on_train_start(self, trainer, pl_module):
        self.used, (optimizer,) = [], trainer.optimizers
        optimizer.register_step_pre_hook(lambda o, *_: self.used.append([group["lr"] for group in o.param_groups]))


@resuming
@pytest.mark.parametrize("unfreeze_first", [True, False])
@pytest.mark.parametrize(
    "scheduler",
    [
        partial(lr_scheduler.StepLR, step_size=1, gamma=0.5),
        partial(lr_scheduler.LambdaLR, lr_lambda=lambda epoch: 0.5**epoch),
        lr_scheduler.CosineAnnealingLR,
        lr_scheduler.PolynomialLR,
    ],
)
def test_a_group_that_is_added_joins_also_over_a_resume(fit, tmp_path, scheduler, unfreeze_first):
    def run(*others, **settings):
        callbacks, groups = [Unfreeze(epoch=2), TorchLRScheduler(scheduler)], Groups()
        fit(Grows(), *(callbacks if unfreeze_first else callbacks[::-1]), groups, *others, **settings)
        return groups.used

    used = run(Save(tmp_path))
    assert [len(rates) for rates in used] == [1] * 2 * BATCHES + [2] * 2 * BATCHES
    assert used[2 * BATCHES][1] == 0.04
    assert used[-1][1] < used[2 * BATCHES][1]
    for step in (2 * BATCHES - 1, 2 * BATCHES + 2, 3 * BATCHES + 1):
        assert run(ckpt_path=tmp_path / f"{step}.ckpt") == used[step:]


def test_a_group_that_cannot_join_is_refused_in_one_line(fit):
    lambdas = partial(lr_scheduler.LambdaLR, lr_lambda=[float])
    for scheduler in (one_cycle, partial(lr_scheduler.CyclicLR, base_lr=0.1, max_lr=1.0)):
        with pytest.raises(ArgumentError, match=r"^scheduler=\w+: cannot take in a parameter group that is added"):
            fit(Grows(), Unfreeze(epoch=1), TorchLRScheduler(scheduler))
    fit(Grows(), Unfreeze(epoch=1), TorchLRScheduler(lambdas))


# ---- with others


@resuming
@pytest.mark.filterwarnings("ignore:Swapping scheduler", "ignore:SWA is currently only supported")
@pytest.mark.parametrize("averaging_first", [True, False])
def test_stochastic_weight_averaging_takes_over_and_resumes(fit, tmp_path, averaging_first):
    def run(*others, **settings):
        averaging = StochasticWeightAveraging(swa_lrs=0.02, swa_epoch_start=3, annealing_epochs=2)
        callbacks = [averaging, TorchLRScheduler(lr_scheduler.CosineAnnealingLR)]
        return fit(Net(), *(callbacks if averaging_first else callbacks[::-1]), *others, **settings)

    used = run(Save(tmp_path))
    assert used[: 2 * BATCHES] == by_torch(partial(lr_scheduler.CosineAnnealingLR, T_max=EPOCHS), 2 * BATCHES, BATCHES)
    # Within the epoch that it began in, Lightning's averaging would go on in the next only, one of its steps behind.
    for step in (BATCHES + 2, 3 * BATCHES + 1):
        assert run(ckpt_path=tmp_path / f"{step}.ckpt") == used[step:]
