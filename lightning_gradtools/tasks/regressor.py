"""Regression."""

import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError, R2Score

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.tasks.data.loading import Batch
from lightning_gradtools.tasks.task import ADAMW, Task
from lightning_gradtools.tasks.weight_decay import OptimizerFactory


def _metrics(stage: str) -> MetricCollection:
    metrics: dict[str, Metric | MetricCollection] = {
        "r2": R2Score(),
        "mae": MeanAbsoluteError(),
        "rmse": MeanSquaredError(squared=False),
    }
    return MetricCollection(metrics, prefix=f"{stage}/")


class Regressor(Task):
    """Mean squared error on a network that gives one number.

    ==========================  ============================  ==========================================
    key                         unit                          when
    ==========================  ============================  ==========================================
    `train/loss`                target², this rank's batch    every ``Trainer(log_every_n_steps)`` steps
    `val/loss`, `test/loss`     target², mean over the set    each validation, test
    `val/r2`, `test/r2`         share of variance explained   each validation, test
    `val/mae`, `test/mae`       target                        each validation, test
    `val/rmse`, `test/rmse`     target                        each validation, test
    ==========================  ============================  ==========================================

    The unit is that of the targets as the data module gives them: standard deviations if it standardises
    them.

    Args:
        net: maps (batch, ...) to (batch, 1).
        optimizer: see `Task`.

    Raises:
        ArgumentError: if the network has more than one output, or, at the start of a run, the data has
            classes or its samples do not fit the network.
    """

    def __init__(self, net: nn.Module, optimizer: OptimizerFactory = ADAMW) -> None:
        super().__init__(net, optimizer)
        outputs = getattr(net, "out_features", 1)
        if outputs != 1:
            raise ArgumentError(f"out_features={outputs}: must be 1 in the network of a regression")
        self.val_metrics = _metrics("val")
        self.test_metrics = _metrics("test")

    def setup(self, stage: str) -> None:
        """Check the network against the data."""
        super().setup(stage)
        classes = self._data("num_classes")
        if classes is not None:
            raise ArgumentError(f"the data has {classes} classes: train a Classifier on it, not a Regressor")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Return the batch's mean squared error."""
        inputs, targets = batch
        loss = F.mse_loss(self(inputs).squeeze(-1), targets)
        self._log_train_loss(loss, len(targets))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        """Log loss and metrics of the validation set."""
        self._evaluate(batch, "val", self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        """Log loss and metrics of the test set."""
        self._evaluate(batch, "test", self.test_metrics)

    def _evaluate(self, batch: Batch, stage: str, metrics: MetricCollection) -> None:
        inputs, targets = batch
        outputs = self(inputs).squeeze(-1)
        metrics.update(outputs, targets)
        size = len(targets)
        self.log(f"{stage}/loss", F.mse_loss(outputs, targets), batch_size=size, sync_dist=True)
        for name, metric in metrics.items():
            self.log(name, metric, batch_size=size, prog_bar=name.endswith("/r2"))
