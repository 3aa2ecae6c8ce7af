from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.optim import AdamW

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.tasks import CNN, MLP, Classifier, DigitsData, ResidualMLP


def test_what_is_logged_is_the_loss_and_the_accuracy_of_the_whole_set(trainer):
    torch.manual_seed(0)
    task, data = Classifier(MLP(64, 10), num_classes=10), DigitsData(batch_size=100)
    run = trainer(max_epochs=1)
    run.fit(task, datamodule=data)
    logged = dict(run.callback_metrics)
    assert set(logged) == {"train/loss", "val/loss", "val/accuracy"}
    val = data.splits.val  # 269 images: batches of 100, 100 and 69
    with torch.no_grad():
        logits = task(val.inputs)
    torch.testing.assert_close(logged["val/loss"], F.cross_entropy(logits, val.targets))
    torch.testing.assert_close(logged["val/accuracy"], (logits.argmax(1) == val.targets).float().mean())

    (tested,) = run.test(task, datamodule=data, verbose=False)
    assert set(tested) == {"test/loss", "test/accuracy"}


# Three seeds of the data and the weights gave 0.978 to 0.993 with these settings.
@pytest.mark.parametrize("network", [partial(MLP, 64), partial(ResidualMLP, 64), partial(CNN, 1)])
def test_digits_are_learnt_in_seconds(trainer, network):
    torch.manual_seed(0)
    task = Classifier(network(10), partial(AdamW, lr=1e-3), num_classes=10)
    run = trainer(max_epochs=15, check_val_every_n_epoch=15)
    run.fit(task, datamodule=DigitsData())
    assert run.callback_metrics["val/accuracy"] >= 0.97


def test_bad_arguments():
    with pytest.raises(ArgumentError, match=r"^num_classes=9: the network has out_features=10"):
        Classifier(MLP(64, 10), num_classes=9)
    with pytest.raises(ArgumentError, match=r"^num_classes=1: must be an integer >= 2"):
        Classifier(MLP(64, 1), num_classes=1)
