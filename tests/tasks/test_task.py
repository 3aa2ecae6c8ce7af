from functools import partial

import pytest
import torch
from lightning.pytorch import Callback
from torch.optim import SGD, AdamW

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.tasks import (
    CNN,
    GPT,
    MLP,
    Classifier,
    DigitsData,
    LanguageModel,
    Regressor,
    TabularData,
    TextData,
)


def test_the_optimizer_is_the_factorys():
    assert isinstance(Regressor(MLP(4, 1)).configure_optimizers(), AdamW)
    optimizer = Regressor(MLP(4, 1), partial(SGD, lr=0.25)).configure_optimizers()
    assert isinstance(optimizer, SGD)
    assert optimizer.defaults["lr"] == 0.25


def test_an_optimizer_that_is_no_factory():
    network = MLP(4, 1)
    with pytest.raises(ArgumentError, match=r"^optimizer=SGD: must be a function .*_partial_: true$"):
        Regressor(network, SGD(network.parameters(), lr=1))


def short_text():
    return TextData(context_length=16, max_chars=5000, batch_size=4)


@pytest.mark.parametrize(
    ("make_task", "make_data", "message"),
    [
        (
            lambda: Classifier(MLP(32, 10), num_classes=10),
            DigitsData,
            "in_features=32: the data has 64 features",
        ),
        (lambda: Classifier(MLP(64, 9), num_classes=9), DigitsData, "num_classes=9: the data has 10 classes"),
        (
            lambda: Classifier(CNN(3), num_classes=10),
            DigitsData,
            "in_channels=3: the data's samples have shape",
        ),
        (
            lambda: Classifier(CNN(), num_classes=10),
            partial(DigitsData, flat=True),
            r"in_channels=1: the data's samples have shape \(64,\)",
        ),
        (lambda: Regressor(MLP(9, 1)), TabularData, "in_features=9: the data has 10 features"),
        (
            lambda: Regressor(MLP(13, 1)),
            partial(TabularData, "wine"),
            "the data has 3 classes: train a Classifier",
        ),
        (lambda: LanguageModel(GPT(97, 16)), short_text, "vocab_size=97: the data needs at least 98"),
        (lambda: LanguageModel(GPT(98, 8)), short_text, "context_length=8: the data needs at least 16"),
    ],
)
def test_a_network_that_does_not_fit_the_data_is_refused_at_the_start(trainer, make_task, make_data, message):
    with pytest.raises(ArgumentError, match=f"^{message}"):
        trainer(max_steps=1).fit(make_task(), datamodule=make_data())


def test_loaders_without_a_data_module_need_no_check(trainer):
    data = DigitsData()
    trainer(max_steps=2, limit_val_batches=1).fit(
        Classifier(MLP(64, 10), num_classes=10), data.train_dataloader(), data.val_dataloader()
    )


class Batches(Callback):
    """Keeps the labels of each training batch, and saves a checkpoint after so many."""

    def __init__(self, save_after, path):
        self.seen = []
        self.save_after = save_after
        self.path = path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append(batch[1].tolist())
        if len(self.seen) == self.save_after:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("saved_after", [4, 9, 13])  # an epoch has 9 batches
def test_a_resumed_run_ends_where_an_unbroken_one_does(trainer, tmp_path, saved_after):
    def fit(ckpt_path=None):
        torch.manual_seed(0)
        batches = Batches(saved_after if ckpt_path is None else None, tmp_path / "saved.ckpt")
        run = trainer(max_epochs=3, callbacks=[batches])
        task = Classifier(MLP(64, 10, width=16), num_classes=10)
        run.fit(task, datamodule=DigitsData(128), ckpt_path=ckpt_path)
        return task, batches.seen

    unbroken, every_batch = fit()
    assert len({str(batch) for batch in every_batch}) == len(every_batch) == 27  # each epoch has its own order
    resumed, last_batches = fit(tmp_path / "saved.ckpt")
    assert last_batches == every_batch[saved_after:]
    for a, b in zip(unbroken.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
