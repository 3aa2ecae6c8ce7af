from functools import partial

import pytest
from helpers.runs import Regression, fit
from lightning.pytorch import Callback
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
)

from lightning_gradtools._lightning.schedule_lengths import is_scheduled, schedule_lengths


class Scheduled(Regression):
    def __init__(self, *make, interval="step", lr=0.1, **settings):
        super().__init__(lr=lr)
        self.make, self.interval, self.more = make, interval, settings

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        kept = {"interval": self.interval, **self.more}
        return [optimizer], [{"scheduler": make(optimizer), **kept} for make in self.make]


class Asked(Callback):
    def on_train_start(self, trainer, pl_module):
        self.found, self.scheduled = schedule_lengths(trainer, pl_module), is_scheduled(trainer)

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.max_epochs == -1


def asked(*make, run=None, **settings):
    callback = Asked()
    fit(Scheduled(*make, **settings), callback, **{"max_epochs": 3, **(run or {})})
    return callback


class Callable:
    def __init__(self, total):
        self.total, self.power = total, 0.5

    def __call__(self, step):
        return 1.0


def with_default(step, total=18):
    return 1.0


def closure(total):
    return lambda step: 1.0 - step / (total + 1)


@pytest.mark.parametrize(
    ("make", "lengths"),
    [
        (partial(OneCycleLR, max_lr=0.1, total_steps=19), (19,)),
        (partial(OneCycleLR, max_lr=0.1, epochs=3, steps_per_epoch=7), (21,)),
        (partial(CosineAnnealingLR, T_max=7), (7,)),
        (partial(PolynomialLR, total_iters=9), (9,)),
        (partial(ExponentialLR, gamma=0.9), ()),
        (lambda o: SequentialLR(o, [ConstantLR(o), CosineAnnealingLR(o, 7)], [5]), (12,)),
        (lambda o: ChainedScheduler([ConstantLR(o), CosineAnnealingLR(o, 7)]), (7,)),
        (partial(LambdaLR, lr_lambda=closure(18)), (18,)),
        (partial(LambdaLR, lr_lambda=with_default), (18,)),
        (partial(LambdaLR, lr_lambda=partial(with_default, total=19)), (18, 19)),
        (partial(LambdaLR, lr_lambda=Callable(20)), (20,)),
        (partial(LambdaLR, lr_lambda=lambda step: 1.0), ()),
    ],
)
@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step")
def test_lengths(make, lengths):
    (found,) = asked(make).found
    assert found.lengths == lengths
    assert (found.interval, found.steps, found.batches, found.epochs, found.epoch_steps) == ("step", 18, 18, 3, 6)


def test_accumulation_makes_fewer_steps_than_batches():
    (found,) = asked(partial(CosineAnnealingLR, T_max=7), run={"accumulate_grad_batches": 4}).found
    assert (found.steps, found.batches, found.epochs, found.epoch_steps) == (6, 18, 3, 2)


@pytest.mark.parametrize(("settings", "run"), [({}, {"max_epochs": -1}), ({"frequency": 2}, {})])
def test_nothing_that_is_not_sure(settings, run):
    assert asked(partial(CosineAnnealingLR, T_max=7), run=run, **settings).found == []


def test_nothing_of_what_waits_for_a_plateau_and_no_schedule_raises_zero():
    make = partial(ReduceLROnPlateau, patience=1)
    plateau = asked(make, monitor="loss", strict=False, interval="epoch", run={"max_epochs": 1, "max_steps": 2})
    assert plateau.found == []
    assert not plateau.scheduled
    assert asked(partial(LambdaLR, lr_lambda=lambda step: 1.0)).scheduled
    assert not asked(partial(LambdaLR, lr_lambda=lambda step: 1.0), lr=0.0).scheduled
    assert not asked().scheduled
