"""Language modelling."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.tasks.data.loading import Batch
from lightning_gradtools.tasks.task import ADAMW, Task
from lightning_gradtools.tasks.weight_decay import OptimizerFactory


class MeanTokenLoss(Metric):
    """The mean over tokens of a loss given as the mean over each batch.

    torchmetrics' `MeanMetric` leaves NaN out, and waits for the device to find it; here one NaN shows.
    """

    full_state_update = False
    total: Tensor
    tokens: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("tokens", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, loss: Tensor, tokens: int) -> None:
        """Add a batch of ``tokens`` tokens with mean ``loss``, a scalar."""
        self.total += loss * tokens
        self.tokens += tokens

    def compute(self) -> Tensor:
        """Return the mean over all tokens of all ranks."""
        return self.total / self.tokens


class LanguageModel(Task):
    """Cross-entropy of the next token at every position.

    ==================================  ========================  ==========================================
    key                                 unit                      when
    ==================================  ========================  ==========================================
    `train/loss`                        nats a token, this rank's every ``Trainer(log_every_n_steps)`` steps
    `val/loss`, `test/loss`             nats a token, of the set  each validation, test
    `val/perplexity`, `test/…`          exp(loss)                 each validation, test
    `val/bits_per_character`, `test/…`  loss / ln 2               each validation, test
    ==================================  ========================  ==========================================

    Args:
        net: maps token ids (batch, time) to logits (batch, time, vocab_size).
        optimizer: see `Task`.

    Raises:
        ArgumentError: at the start of a run, if the data's vocabulary or context is larger than the
            network's.
    """

    def __init__(self, net: nn.Module, optimizer: OptimizerFactory = ADAMW) -> None:
        super().__init__(net, optimizer)
        self.val_loss = MeanTokenLoss()
        self.test_loss = MeanTokenLoss()

    def setup(self, stage: str) -> None:
        """Check the network against the data."""
        super().setup(stage)
        for name in ("vocab_size", "context_length"):
            has, needs = getattr(self.net, name, None), self._data(name)
            if has is not None and needs is not None and has < needs:
                raise ArgumentError(f"{name}={has}: the data needs at least {needs}")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Return the batch's mean cross-entropy."""
        loss = self._loss(batch)
        self._log_train_loss(loss, len(batch[0]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        """Add a batch to the validation loss."""
        self.val_loss.update(self._loss(batch), batch[1].numel())

    def test_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        """Add a batch to the test loss."""
        self.test_loss.update(self._loss(batch), batch[1].numel())

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the validation set."""
        self._log_metrics("val", self.val_loss)

    def on_test_epoch_end(self) -> None:
        """Log the metrics of the test set."""
        self._log_metrics("test", self.test_loss)

    def _loss(self, batch: Batch) -> Tensor:
        tokens, targets = batch
        return F.cross_entropy(self(tokens).flatten(0, 1), targets.flatten())

    def _log_metrics(self, stage: str, mean: MeanTokenLoss) -> None:
        # All are functions of one mean, which has already been taken over the ranks.
        loss = mean.compute()
        mean.reset()
        self.log(f"{stage}/loss", loss, prog_bar=True, sync_dist=True)
        self.log(f"{stage}/perplexity", torch.exp(loss), sync_dist=True)
        self.log(f"{stage}/bits_per_character", loss / math.log(2), sync_dist=True)
