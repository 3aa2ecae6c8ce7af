"""Runs on two ranks that tests/tasks/test_two_ranks.py looks at, one for each strategy."""

import logging
from functools import partial

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.tensor import DTensor

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.tasks import (
    GPT,
    MLP,
    Classifier,
    DigitsData,
    LanguageModel,
    Regressor,
    TabularData,
    TextData,
)


class Inputs(Callback):
    """Keeps the first number of each training sample."""

    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append(batch[0].flatten(1).sum(1).tolist())


class Sharded(Callback):
    """Keeps the names of the parameters that hold a shard only, as they are between two steps."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.names = [name for name, p in pl_module.named_parameters() if isinstance(p, DTensor)]


def make_trainer(strategy, **arguments):
    return Trainer(
        accelerator="cpu",
        devices=2,
        strategy=strategy,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )


def metrics(trainer):
    return {key: value.item() for key, value in trainer.callback_metrics.items()}


def tabular():
    torch.manual_seed(0)
    inputs = Inputs()
    trainer = make_trainer("ddp", max_epochs=2, callbacks=[inputs])
    # 266 rows: 7 batches of 19 on each of two ranks, with nothing left over. 88 rows to validate on.
    task, data = Regressor(MLP(10, 1, width=8)), TabularData(batch_size=19)
    trainer.fit(task, datamodule=data)
    alone = Regressor(task.net)
    val = data.splits.val
    with torch.no_grad():
        outputs = alone(val.inputs).squeeze(-1)
        alone.val_metrics.update(outputs, val.targets)
    expected = {key: value.item() for key, value in alone.val_metrics.compute().items()}
    expected["val/loss"] = torch.nn.functional.mse_loss(outputs, val.targets).item()
    return {"seen": inputs.seen, "logged": metrics(trainer), "expected": expected}


def too_large():
    try:
        make_trainer("ddp", max_epochs=1).fit(
            Classifier(MLP(64, 10), num_classes=10), datamodule=DigitsData(batch_size=630)
        )
    except ArgumentError as error:
        return str(error)


def text(strategy):
    torch.manual_seed(0)
    sharded = Sharded()
    trainer = make_trainer(strategy, max_steps=12, val_check_interval=12, callbacks=[sharded])
    task = LanguageModel(GPT(98, 16, depth=2, width=16, heads=2), partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1))
    trainer.fit(task, datamodule=TextData(context_length=16, max_chars=12_000, batch_size=8))
    trainer.test(task, datamodule=TextData(context_length=16, max_chars=12_000, batch_size=8), verbose=False)
    return {
        "logged": metrics(trainer),
        "sharded": sharded.names,
        "names": [name for name, _ in task.named_parameters()],
    }


def two_ranks():
    """Run everything on this rank of two."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    return {
        "tabular": tabular(),
        "too_large": too_large(),
        "ddp": text("ddp"),
        "fsdp2": text(ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)),
    }
