import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

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
