import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    GradientAccumulationScheduler,
    LearningRateFinder,
    LearningRateMonitor,
    StochasticWeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.tuner import Tuner
from torch.utils.data import DataLoader, IterableDataset

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.callbacks.warmup_cosine_schedule import WarmupCosineSchedule
from lightning_gradtools.schedules import WarmupCosine

BATCHES = 10


class Net(LightningModule):
    """A regression with two parameter groups, the second at a tenth of the first's learning rate."""

    def __init__(self, lr: float = 0.1, skip: tuple[int, ...] = (), scheduler=None):
        super().__init__()
        self.lr, self.skip, self.make_scheduler = lr, skip, scheduler
        self.layer, self.head = torch.nn.Linear(4, 4), torch.nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        if batch_idx in self.skip:
            return None
        return self.head(self.layer(batch)).square().mean()

    def configure_optimizers(self):
        groups = [{"params": self.layer.parameters()}, {"params": self.head.parameters(), "lr": self.lr / 10}]
        optimizer = torch.optim.Adam(groups, lr=self.lr)
        if self.make_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.make_scheduler(optimizer)}

    def train_dataloader(self):
        generator = torch.Generator().manual_seed(0)
        return DataLoader(torch.randn(BATCHES * 2, 4, generator=generator), batch_size=2)


class Spy(Callback):
    """The learning rates of each optimizer at each of its steps, seen from inside the optimizer."""

    def __init__(self):
        self.used: dict[int, list[list[float]]] = {}

    def on_train_start(self, trainer, pl_module):
        for index, optimizer in enumerate(trainer.optimizers):
            self.used[index] = []
            optimizer.register_step_pre_hook(lambda o, *_, index=index: self.note(index, o))

    def note(self, index, optimizer):
        self.used[index].append([group["lr"] for group in optimizer.param_groups])


@pytest.fixture
def fit(tmp_path):
    def fit(module, *callbacks, ckpt_path=None, **arguments):
        spy = Spy()
        defaults = {
            "max_epochs": 2,
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "log_every_n_steps": 1,
            "default_root_dir": tmp_path,
        }
        trainer = Trainer(**{**defaults, **arguments}, callbacks=[*callbacks, spy])
        trainer.fit(module, ckpt_path=ckpt_path)
        return spy.used, trainer

    return fit


def curve(schedule: WarmupCosine, steps, lr: float = 0.1) -> list[list[float]]:
    return [[lr * schedule.factor(k), lr / 10 * schedule.factor(k)] for k in steps]


def test_every_step_has_the_formulas_rate_in_every_group(fit):
    used, _ = fit(Net(), WarmupCosineSchedule(warmup_steps=5, min_lr_ratio=0.1))
    assert used[0] == curve(WarmupCosine(20, warmup_steps=5, min_lr_ratio=0.1), range(20))


@pytest.mark.parametrize("accumulate", [1, 3, 4, 10, 16])
def test_accumulation_with_a_tail_counts_optimizer_steps(fit, accumulate):
    used, trainer = fit(Net(), WarmupCosineSchedule(warmup_steps=0.25), accumulate_grad_batches=accumulate)
    steps = 2 * -(-BATCHES // accumulate)
    assert trainer.global_step == steps
    assert used[0] == curve(WarmupCosine(steps, warmup_steps=round(steps / 4)), range(steps))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"max_epochs": 3, "limit_train_batches": 7, "accumulate_grad_batches": 4},
        {"max_epochs": -1, "max_steps": 13},
        {"max_epochs": 5, "max_steps": 13},
        {"limit_train_batches": 0.5},
    ],
)
def test_the_length_of_the_run_is_lightnings(fit, arguments):
    schedule = WarmupCosineSchedule(warmup_steps=0)
    lengths = []

    class Look(Callback):
        def on_train_start(self, trainer, pl_module):
            lengths.append((schedule.schedulers[0].schedule.total_steps, trainer.estimated_stepping_batches))

    _, trainer = fit(Net(), schedule, Look(), **arguments)
    assert lengths == [(trainer.global_step, trainer.global_step)]


def test_lengths_in_epochs(fit):
    used, _ = fit(Net(), WarmupCosineSchedule("1 epoch", "2 epochs", decay_steps="0.5 epochs"))
    assert used[0] == curve(WarmupCosine(20, warmup_steps=10, decay_steps=5), range(20))


def test_fractions_are_of_the_schedule_and_fit_into_it_whatever_their_rounding(fit):
    with pytest.warns(UserWarning, match="spends 15 at the floor"):
        used, _ = fit(Net(), WarmupCosineSchedule(0.3, 5, decay_steps=0.7))
    assert used[0] == curve(WarmupCosine(5, warmup_steps=2, decay_steps=3), range(20))
    with pytest.raises(ArgumentError, match=r"^decay_steps=16: must be at most"):
        fit(Net(), WarmupCosineSchedule(0.3, decay_steps=0.8))


def test_changing_accumulation_is_counted(fit):
    used, trainer = fit(
        Net(), WarmupCosineSchedule(warmup_steps=2), GradientAccumulationScheduler({0: 1, 1: 5}), max_epochs=3
    )
    assert trainer.global_step == 10 + 2 + 2
    assert used[0] == curve(WarmupCosine(14, warmup_steps=2), range(14))


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield torch.ones(2, 4)


@pytest.mark.parametrize("arguments", [{"max_epochs": -1}, {"max_epochs": 3, "data": Endless()}])
def test_a_run_without_an_end_needs_a_length(fit, arguments):
    net = Net()
    if data := arguments.pop("data", None):
        net.train_dataloader = lambda: DataLoader(data, batch_size=None)
    with pytest.raises(ArgumentError, match=r"^total_steps=None: must be given.*no known end"):
        fit(net, WarmupCosineSchedule(warmup_steps=5), **arguments)


def test_a_run_without_an_end_with_a_length(fit):
    class Stop(Callback):
        def on_train_batch_end(self, trainer, *args):
            trainer.should_stop = trainer.global_step >= 30

    used, _ = fit(Net(), WarmupCosineSchedule(0.1, 20, min_lr_ratio=0.1), Stop(), max_epochs=-1)
    assert used[0] == curve(WarmupCosine(20, warmup_steps=2, min_lr_ratio=0.1), range(30))


def test_lengths_that_do_not_fit_are_named_at_fit_start(fit):
    with pytest.raises(ArgumentError, match=r"^warmup_steps=30: must be at most total_steps=20$"):
        fit(Net(), WarmupCosineSchedule(warmup_steps=30))
    fit(Net(), WarmupCosineSchedule(warmup_steps=30), fast_dev_run=True)


@pytest.mark.parametrize(
    ("total", "message"),
    [(15, r"spends 5 at the floor \(min_lr_ratio=0\.1\)"), (200, r"ends with a factor of 0\.98")],
)
def test_a_length_that_is_not_the_runs_is_told(fit, total, message):
    with pytest.warns(UserWarning, match=rf"total_steps={total}.*the run makes 20.*{message}"):
        fit(Net(), WarmupCosineSchedule(0, total, min_lr_ratio=0.1))


@pytest.mark.parametrize(
    "arguments",
    [
        {"warmup_steps": 1.5},
        {"total_steps": "ten epochs"},
        {"decay_steps": -3},
        {"min_lr_ratio": 2.0},
        {"warmup_start_factor": -1.0},
        {"decay": "exp"},
        {"num_cycles": 0},
    ],
)
def test_what_can_never_work_is_refused_at_construction(arguments):
    (name,) = arguments
    with pytest.raises(ArgumentError, match=rf"^{name}="):
        WarmupCosineSchedule(**arguments)


# ---- skipped steps: the rate of an optimizer's k-th real step is factor(k)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_batch_without_a_loss_does_not_count(fit):
    used, trainer = fit(Net(skip=(0, 3, 9)), WarmupCosineSchedule(warmup_steps=4))
    schedule = WarmupCosine(20, warmup_steps=4)
    assert trainer.global_step == 20
    real = [k for k in range(20) if k % BATCHES not in (0, 3, 9)]
    assert [used[0][k] for k in real] == curve(schedule, range(14))


def test_a_step_whose_gradients_were_dropped_does_not_count_as_it_does_not_for_adam(fit):
    class Drop(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            if trainer.global_step in (0, 1, 7):
                optimizer.zero_grad(set_to_none=True)

    net, schedule = Net(), WarmupCosineSchedule(warmup_steps=4)
    seen = []

    class Count(Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            state = trainer.optimizers[0].state.get(net.layer.weight, {"step": 0})
            seen.append((int(state["step"]), schedule.schedulers[0].last_epoch))

    used, _ = fit(net, schedule, Drop(), Count())
    assert all(adam == ours for adam, ours in seen)
    assert seen[-1] == (17, 17)
    assert [used[0][k] for k in range(20) if k not in (0, 1, 7)] == curve(WarmupCosine(20, warmup_steps=4), range(17))


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_step_that_the_loss_scaler_skips_does_not_count(fit, accumulate):
    class Overflow(Net):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return loss * float("inf") if batch_idx in (0, 5) else loss

    # A growth interval longer than the run: the only skips are ours.
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=1000)
    used, trainer = fit(
        Overflow(),
        WarmupCosineSchedule(warmup_steps=2),
        plugins=MixedPrecision("16-mixed", "cpu", scaler),
        accumulate_grad_batches=accumulate,
    )
    assert scaler.get_scale() == 2.0**8 / 2**4
    assert len(used[0]) == trainer.global_step - 4
    schedule = WarmupCosine(trainer.global_step, warmup_steps=2)
    assert used[0] == curve(schedule, range(trainer.global_step - 4))


# ---- several optimizers, manual optimisation


class Adversarial(Net):
    """Two optimizers, the second stepping on every third batch only."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self):
        return [
            torch.optim.SGD(self.layer.parameters(), lr=0.1),
            torch.optim.Adam(self.head.parameters(), lr=0.02),
        ]

    def training_step(self, batch, batch_idx):
        loss = self.head(self.layer(batch)).square().mean()
        self.manual_backward(loss)
        for index, optimizer in enumerate(self.optimizers()):
            if index == 0 or batch_idx % 3 == 0:
                optimizer.step()
                optimizer.zero_grad()


def test_each_optimizer_has_its_own_count_under_manual_optimisation(fit):
    schedule = WarmupCosineSchedule(warmup_steps=3, min_lr_ratio=0.2)
    used, _ = fit(Adversarial(), schedule)
    expected = WarmupCosine(20, warmup_steps=3, min_lr_ratio=0.2)
    assert used[0] == [[0.1 * expected.factor(k)] for k in range(20)]
    assert used[1] == [[0.02 * expected.factor(k)] for k in range(8)]


def test_max_steps_counts_all_optimizers_together_under_manual_optimisation(fit):
    class Both(Adversarial):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, 0)

    used, trainer = fit(Both(), WarmupCosineSchedule(warmup_steps=2), max_steps=12)
    assert (trainer.global_step, len(used[0]), len(used[1])) == (12, 6, 6)
    assert used[0] == [[0.1 * WarmupCosine(6, warmup_steps=2).factor(k)] for k in range(6)]


# ---- resume


class SaveEvery(Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_end(self, trainer, *args):
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


@pytest.fixture
def checkpoints(fit, tmp_path):
    used, _ = fit(Net(), WarmupCosineSchedule(warmup_steps=5), SaveEvery(tmp_path), max_epochs=3)
    assert len(used[0]) == 30
    return tmp_path, used[0]


resuming = pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")


@resuming
def test_resuming_at_any_step_continues_exactly(fit, checkpoints):
    folder, used = checkpoints
    for step in random.Random(0).sample(range(1, 30), 20):
        resumed, _ = fit(Net(), WarmupCosineSchedule(warmup_steps=5), max_epochs=3, ckpt_path=folder / f"{step}.ckpt")
        assert resumed[0] == used[step:], step


@resuming
def test_resuming_two_optimizers_continues_exactly(fit, tmp_path):
    full, _ = fit(Adversarial(), WarmupCosineSchedule(warmup_steps=3), SaveEvery(tmp_path))
    resumed, _ = fit(Adversarial(), WarmupCosineSchedule(warmup_steps=3), ckpt_path=tmp_path / "14.ckpt")
    assert 0 < len(resumed[1]) < len(full[1])
    assert all(resumed[index] == full[index][-len(resumed[index]) :] for index in full)


@resuming
@pytest.mark.parametrize("step", [12, 30])
def test_an_extended_run_continues_on_the_longer_curve_and_says_so(fit, checkpoints, caplog, step):
    folder, _ = checkpoints
    with caplog.at_level("INFO"):
        resumed, _ = fit(Net(), WarmupCosineSchedule(warmup_steps=5), max_epochs=6, ckpt_path=folder / f"{step}.ckpt")
    before, now = WarmupCosine(30, warmup_steps=5), WarmupCosine(60, warmup_steps=5)
    assert resumed[0] == curve(now, range(step, 60))
    assert (
        f"planned for 30 steps when the checkpoint was saved, now for 60: at step {step} the factor on the "
        f"learning rate goes from {before.factor(step):.4g} to {now.factor(step):.4g}"
    ) in caplog.text


@resuming
def test_an_extended_run_with_its_own_total_stays_on_its_curve(fit, checkpoints, caplog):
    folder, used = checkpoints
    with pytest.warns(UserWarning, match="spends 30 at the floor"), caplog.at_level("INFO"):
        resumed, _ = fit(Net(), WarmupCosineSchedule(5, 30), max_epochs=6, ckpt_path=folder / "12.ckpt")
    assert resumed[0] == used[12:] + [[0.0, 0.0]] * 30
    assert "planned for" not in caplog.text


@resuming
def test_extending_a_run_that_holds_does_not_jump(fit, tmp_path):
    hold = {"warmup_steps": 2, "decay_steps": 5, "decay": "1-sqrt"}
    fit(Net(), WarmupCosineSchedule(**hold), SaveEvery(tmp_path))
    resumed, _ = fit(Net(), WarmupCosineSchedule(**hold), max_epochs=4, ckpt_path=tmp_path / "14.ckpt")
    assert resumed[0][0] == [0.1, 0.1 / 10]
    assert resumed[0] == curve(WarmupCosine(40, **hold), range(14, 40))


@resuming
def test_a_checkpoint_without_the_schedule_does_not_restart_the_warm_up_silently(fit, tmp_path):
    fit(Net(), SaveEvery(tmp_path))
    with pytest.warns(UserWarning, match=r"holds no state of this schedule.* step 12 of the run"):
        fit(Net(), WarmupCosineSchedule(5), ckpt_path=tmp_path / "12.ckpt")


@resuming
def test_the_checkpoint_of_another_scheduler_is_refused(fit, tmp_path):
    step_lr = Net(scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1))
    fit(step_lr, SaveEvery(tmp_path))
    with pytest.raises(ArgumentError, match="of another scheduler"):
        fit(Net(), WarmupCosineSchedule(5), ckpt_path=tmp_path / "12.ckpt")


@resuming
def test_an_older_or_foreign_state_ends_in_one_line(fit, checkpoints, tmp_path):
    folder, used = checkpoints

    def resume(change):
        checkpoint = torch.load(folder / "12.ckpt", weights_only=False)
        change(checkpoint["lr_schedulers"][0])
        torch.save(checkpoint, folder / "changed.ckpt")
        return fit(Net(), WarmupCosineSchedule(warmup_steps=5), max_epochs=3, ckpt_path=folder / "changed.ckpt")[0][0]

    for key in ("base_lrs", "last_epoch"):
        with pytest.raises(
            ArgumentError, match=rf"^state_dict: must say {key}; this one was saved by another version$"
        ):
            resume(lambda state, key=key: state.pop(key))
    assert resume(lambda state: state.update(unknown=1)) == used[12:]
    assert resume(lambda state: state.pop("_step_count")) == used[12:]
    for change in (lambda shape: shape.update(unknown=1), lambda shape: shape.pop("total_steps")):
        with pytest.warns(UserWarning, match="saved by another version, whose curve cannot be compared"):
            assert resume(lambda state, change=change: change(state["schedule"])) == used[12:]


@resuming
@pytest.mark.parametrize("settings", [{"accumulate_grad_batches": 2}, {"limit_train_batches": 5}])
def test_with_other_steps_an_epoch_the_curve_is_that_of_a_run_that_had_them_from_its_start(fit, checkpoints, settings):
    folder, _ = checkpoints
    resumed, _ = fit(Net(), WarmupCosineSchedule(5), max_epochs=4, ckpt_path=folder / "10.ckpt", **settings)
    steps = 4 * 5
    assert resumed[0] == curve(WarmupCosine(steps, warmup_steps=5), range(10, 10 + len(resumed[0])))


# ---- groups added while training


class Grows(Net):
    """A backbone that the optimizer does not have at first."""

    def __init__(self):
        super().__init__()
        self.backbone = torch.nn.Linear(4, 4)

    def training_step(self, batch, batch_idx):
        return super().training_step(self.backbone(batch), batch_idx)


class Unfreeze(BaseFinetuning):
    """Adds the backbone after the first epoch, at a rate of 0.04."""

    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.backbone, optimizer, lr=0.04)


@resuming
@pytest.mark.parametrize("unfreeze_first", [True, False])
def test_a_group_that_is_added_joins_with_its_own_base_rate_also_over_a_resume(fit, tmp_path, unfreeze_first):
    def run(*others, **settings):
        callbacks = [Unfreeze(), WarmupCosineSchedule(warmup_steps=5)]
        used, _ = fit(Grows(), *(callbacks if unfreeze_first else callbacks[::-1]), *others, **settings)
        return used[0]

    used, schedule = run(SaveEvery(tmp_path)), WarmupCosine(20, warmup_steps=5)
    rates = curve(schedule, range(20))
    assert used == rates[:10] + [[*rates[k], 0.04 * schedule.factor(k)] for k in range(10, 20)]
    for step in (9, 11, 15):
        assert run(ckpt_path=tmp_path / f"{step}.ckpt") == used[step:]


# ---- with others


def test_a_module_with_its_own_scheduler_is_refused_unless_replaced(fit):
    def step_lr(optimizer):
        return torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.3)

    with pytest.raises(ArgumentError, match=r"^replace=False: Net already has .*LinearLR.*replace=True"):
        fit(Net(scheduler=step_lr), WarmupCosineSchedule(5))
    used, _ = fit(Net(scheduler=step_lr), WarmupCosineSchedule(5, replace=True))
    assert used[0] == curve(WarmupCosine(20, warmup_steps=5), range(20))


def test_a_scheduler_that_overwrote_the_learning_rate_cannot_be_replaced(fit):
    def one_cycle(optimizer):
        return {"scheduler": torch.optim.lr_scheduler.OneCycleLR(optimizer, 1, 20), "interval": "step"}

    with pytest.raises(ArgumentError, match=r"cannot replace OneCycleLR"):
        fit(Net(scheduler=one_cycle), WarmupCosineSchedule(5, replace=True))


def test_an_optimizer_that_the_module_uses_again_is_scheduled_once(fit):
    class Keeps(Net):
        def configure_optimizers(self):
            if not hasattr(self, "kept"):
                self.kept = super().configure_optimizers()
            return self.kept

    net, schedule = Keeps(), WarmupCosineSchedule(warmup_steps=5)
    expected = curve(WarmupCosine(20, warmup_steps=5), range(20))
    assert fit(net, schedule)[0][0] == expected
    assert not net.kept._optimizer_step_post_hooks
    assert fit(net, schedule)[0][0] == expected


def test_learning_rate_monitor_logs_every_step(fit, tmp_path):
    logger = CSVLogger(tmp_path, flush_logs_every_n_steps=1)
    monitor = LearningRateMonitor()
    used, _ = fit(Net(), WarmupCosineSchedule(warmup_steps=5), monitor, logger=logger)
    assert monitor.lrs["lr-Adam/pg1"] == [rates[0] for rates in used[0]]
    assert monitor.lrs["lr-Adam/pg2"] == [rates[1] for rates in used[0]]


@pytest.mark.filterwarnings("ignore:Swapping scheduler", "ignore:SWA is currently only supported")
def test_stochastic_weight_averaging_takes_over(fit):
    averaging = StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=2, annealing_epochs=1)
    used, _ = fit(Net(), WarmupCosineSchedule(warmup_steps=5), averaging, max_epochs=4)
    assert used[0][:BATCHES] == curve(WarmupCosine(40, warmup_steps=5), range(BATCHES))
    assert used[0][-BATCHES:] == [[0.05, 0.05]] * BATCHES


@resuming
@pytest.mark.filterwarnings("ignore:Swapping scheduler", "ignore:SWA is currently only supported")
@pytest.mark.parametrize("averaging_first", [True, False])
def test_a_run_resumes_before_and_after_weight_averaging_began(fit, tmp_path, averaging_first):
    """As with a scheduler of the module's own: resumed within an epoch, Lightning's averaging goes on in the next."""
    factor = WarmupCosine(40, warmup_steps=5).factor

    def by_lightning(optimizer):
        return {"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factor), "interval": "step"}

    def run(folder, own, ckpt_path=None):
        averaging = StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=2, annealing_epochs=2)
        callbacks = [averaging, *([] if own else [WarmupCosineSchedule(warmup_steps=5)]), SaveEvery(folder)]
        module = Net(scheduler=by_lightning if own else None)
        used, _ = fit(module, *callbacks[:: 1 if averaging_first else -1], max_epochs=4, ckpt_path=ckpt_path)
        return used[0]

    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    used = run(ours, own=False)
    assert used == run(theirs, own=True)
    for step in (7, 13, 25, 31):
        resumed = run(tmp_path / "again", own=False, ckpt_path=ours / f"{step}.ckpt")
        assert resumed == run(tmp_path / "again", own=True, ckpt_path=theirs / f"{step}.ckpt")
        assert resumed == used[step:] or 10 < step < 30


@pytest.mark.filterwarnings("ignore:Swapping scheduler", "ignore:SWA is currently only supported")
def test_the_epoch_that_weight_averaging_adds_for_batch_norm_is_not_of_the_schedule(fit):
    class Normed(Net):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))

    averaging = StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=3)
    used, _ = fit(Normed(), averaging, WarmupCosineSchedule(warmup_steps=5), max_epochs=3)
    assert used[0][:20] == curve(WarmupCosine(30, warmup_steps=5), range(20))


@resuming
@pytest.mark.skipif(not hasattr(lightning_callbacks, "EMAWeightAveraging"), reason="came with Lightning 2.6")
def test_a_run_under_an_average_of_weights_resumes(fit, tmp_path):
    def run(*others, **settings):
        averaging = lightning_callbacks.EMAWeightAveraging()
        return fit(Net(), averaging, WarmupCosineSchedule(warmup_steps=5), *others, **settings)[0][0]

    used = run(SaveEvery(tmp_path))
    assert run(ckpt_path=tmp_path / "13.ckpt") == used[13:] == curve(WarmupCosine(20, warmup_steps=5), range(13, 20))


@pytest.mark.parametrize("finder_first", [True, False])
def test_the_learning_rate_finders_suggestion_becomes_the_peak(fit, finder_first):
    finder = LearningRateFinder(min_lr=1e-4, num_training_steps=30, early_stop_threshold=None)
    schedule = WarmupCosineSchedule(warmup_steps=5)
    net = Net()
    used, _ = fit(net, *([finder, schedule] if finder_first else [schedule, finder]))
    factors = [WarmupCosine(20, warmup_steps=5).factor(k) for k in range(20)]
    assert net.lr == finder.optimal_lr.suggestion() != 0.1
    assert used[0] == [[net.lr * factor, net.lr * factor] for factor in factors]


def test_tuner_lr_find_then_fit(fit, tmp_path):
    schedule, net, spy = WarmupCosineSchedule(warmup_steps=5), Net(), Spy()
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        default_root_dir=tmp_path,
        callbacks=[schedule, spy],
    )
    suggestion = Tuner(trainer).lr_find(net, min_lr=1e-4, num_training=30, early_stop_threshold=None).suggestion()
    assert net.lr == suggestion
    trainer.fit(net)
    assert spy.used[0] == curve(WarmupCosine(20, warmup_steps=5), range(20), lr=suggestion)


def test_the_planned_curve_is_a_figure_in_tensorboard(fit, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path)
    fit(Net(), WarmupCosineSchedule(warmup_steps=5), logger=logger)
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    (image,) = events.Images("learning_rate/planned")
    assert (image.step, image.encoded_image_string[:4]) == (0, b"\x89PNG")


DDP = """
import sys, json
from lightning.pytorch import Trainer
sys.path.insert(0, {tests!r})
from test_warmup_cosine_schedule import Net, Spy
from lightning_gradtools.callbacks.warmup_cosine_schedule import WarmupCosineSchedule

for accumulate in (1, 4):
    spy = Spy()
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_epochs=3, accumulate_grad_batches=accumulate,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[WarmupCosineSchedule(warmup_steps=2, min_lr_ratio=0.1), spy],
    )
    trainer.fit(Net())
    with open(f"{out}/{{accumulate}}-{{trainer.global_rank}}.json", "w") as file:
        json.dump([trainer.global_step, spy.used[0]], file)
"""


def test_two_processes_step_as_one(tmp_path):
    script = tmp_path / "ddp.py"
    script.write_text(DDP.format(tests=str(Path(__file__).parent), out=str(tmp_path)))
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    subprocess.run([sys.executable, script], check=True, timeout=200, env={**os.environ, "PYTHONPATH": path})
    for accumulate, steps in ((1, 15), (4, 6)):  # 5 batches a rank: a window of 4 and a tail of 1
        for rank in (0, 1):
            schedule = WarmupCosine(steps, warmup_steps=2, min_lr_ratio=0.1)
            expected = [steps, curve(schedule, range(steps))]
            assert json.loads((tmp_path / f"{accumulate}-{rank}.json").read_text()) == expected
