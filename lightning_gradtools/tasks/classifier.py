"""Classification."""

import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from lightning_gradtools.arguments import ArgumentError, integer
from lightning_gradtools.tasks.data.loading import Batch
from lightning_gradtools.tasks.task import ADAMW, Task
from lightning_gradtools.tasks.weight_decay import OptimizerFactory


class Classifier(Task):
    """Cross-entropy on a network that gives one logit for each class.

    =========================  ========================  ==========================================
    key                        unit                      when
    =========================  ========================  ==========================================
    `train/loss`               nats, this rank's batch   every ``Trainer(log_every_n_steps)`` steps
    `val/loss`, `test/loss`    nats, mean over the set   each validation, test
    `val/accuracy`, `test/…`   fraction, all ranks       each validation, test
    =========================  ========================  ==========================================

    Args:
        net: maps (batch, ...) to logits (batch, num_classes).
        optimizer: see `Task`.
        num_classes: number of classes, at least 2.

    Raises:
        ArgumentError: if ``num_classes`` is not what the network gives, or, at the start of a run, not what
            the data has; or if the data's samples do not fit the network.
    """

    def __init__(self, net: nn.Module, optimizer: OptimizerFactory = ADAMW, *, num_classes: int) -> None:
        super().__init__(net, optimizer)
        self.num_classes = integer("num_classes", num_classes, at_least=2)
        outputs = getattr(net, "out_features", num_classes)
        if outputs != num_classes:
            raise ArgumentError(f"num_classes={num_classes}: the network has out_features={outputs}")
        # Validating its arguments would make the metric wait for the device at each batch.
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.test_accuracy = MulticlassAccuracy(num_classes, average="micro", validate_args=False)

    def setup(self, stage: str) -> None:
        """Check the network against the data."""
        super().setup(stage)
        classes = self._data("num_classes")
        if classes is not None and classes != self.num_classes:
            raise ArgumentError(f"num_classes={self.num_classes}: the data has {classes} classes")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Return the batch's mean cross-entropy."""
        inputs, labels = batch
        loss = F.cross_entropy(self(inputs), labels)
        self._log_train_loss(loss, len(labels))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        """Log loss and accuracy of the validation set."""
        self._evaluate(batch, "val", self.val_accuracy)

    def test_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        """Log loss and accuracy of the test set."""
        self._evaluate(batch, "test", self.test_accuracy)

    def _evaluate(self, batch: Batch, stage: str, accuracy: MulticlassAccuracy) -> None:
        inputs, labels = batch
        logits = self(inputs)
        accuracy.update(logits, labels)
        size = len(labels)
        self.log(f"{stage}/loss", F.cross_entropy(logits, labels), batch_size=size, sync_dist=True)
        self.log(f"{stage}/accuracy", accuracy, batch_size=size, prog_bar=True)
