"""Tables of numbers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_gradtools.arguments import ArgumentError, one_of, suggest
from lightning_gradtools.tasks.data.bundled import load_bundled
from lightning_gradtools.tasks.data.in_memory import InMemoryDataModule, Splits
from lightning_gradtools.tasks.data.loading import TensorPairs

TARGET = "target"
CLASSES = {"diabetes": 0, "wine": 3, "breast_cancer": 2}


class TabularData(InMemoryDataModule):
    """A table that comes with scikit-learn: features standardised by the training rows, and a target.

    ==============  ====  ========  ==========================================================
    ``dataset``     rows  features  ``target`` column
    ==============  ====  ========  ==========================================================
    diabetes         442        10  disease progression after a year, 25 to 346: a regression
    wine             178        13  one of 3 cultivars
    breast_cancer    569        30  malignant 0, benign 1
    ==============  ====  ========  ==========================================================

    A batch is (features, targets): float32 (batch, num_features), and int64 (batch,) class indices or float32
    (batch,) numbers.

    Args:
        dataset: a row of the table.
        features: the columns to predict from; by default all but ``target``.
        target: the column to predict. Any but a class column makes it a regression.
        standardize_target: a regression's targets are standardised by the training rows' statistics too. Raw
            targets of mean 152 and standard deviation 77, as diabetes has, give gradients to match.
        batch_size: rows in a batch, on each rank.
        fractions: the shares of train, val and test.
        seed: fixes the split and, in a single process, each epoch's order.
        num_workers: processes that load. 0 is fastest for data in memory.

    Raises:
        ArgumentError: if a column is not in the table, an argument is out of its range, a split is empty, a
            rank's training set is smaller than a batch, or scikit-learn is not installed.
    """

    def __init__(
        self,
        dataset: str = "diabetes",
        features: Sequence[str] | None = None,
        target: str = TARGET,
        standardize_target: bool = True,
        batch_size: int = 32,
        fractions: Sequence[float] = (0.6, 0.2, 0.2),
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, fractions, seed, num_workers)
        self.dataset = one_of("dataset", dataset, CLASSES)
        if isinstance(features, str):
            raise ArgumentError(f"features={features!r}: must be a list of columns")
        self.features = None if features is None else list(features)
        self.target = target
        self.standardize_target = standardize_target

    @property
    def num_classes(self) -> int | None:
        """Number of classes; None for a regression."""
        return CLASSES[self.dataset] or None if self.target == TARGET else None

    @property
    def num_features(self) -> int:
        """Number of columns that are predicted from."""
        inputs: Tensor = self.splits.train[0][0]
        return len(inputs)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return (self.num_features,)

    def load(self) -> Splits:
        """Return the rows, split at random."""
        table = self._columns()
        targets = _column(table, "target", self.target)
        chosen = [name for name in table if name not in (self.target, TARGET)]
        if self.features is not None:
            chosen = self.features
        if not chosen:
            raise ArgumentError("features=[]: must name at least one column")
        if self.target in chosen:
            raise ArgumentError(f"features: {self.target!r} is the target")
        inputs = torch.stack([_column(table, "features", name) for name in chosen], dim=1)

        order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(self.seed))
        train, val, test = order.split(self.split_sizes(len(inputs)))
        inputs = _standardize(inputs, inputs[train])
        if self.num_classes is not None:
            targets = targets.long()
        elif self.standardize_target:
            targets = _standardize(targets, targets[train])
        return Splits(*(TensorPairs(inputs[rows], targets[rows]) for rows in (train, val, test)))

    def _columns(self) -> dict[str, Tensor]:
        # diabetes comes scaled by the statistics of all its rows, test rows included, unless told otherwise
        bundled = load_bundled(self.dataset, **({"scaled": False} if self.dataset == "diabetes" else {}))
        data = torch.as_tensor(bundled.data, dtype=torch.float32)
        columns = dict(zip(map(str, bundled.feature_names), data.unbind(dim=1), strict=True))
        return columns | {TARGET: torch.as_tensor(bundled.target, dtype=torch.float32)}


def _column(table: dict[str, Tensor], argument: str, name: str) -> Tensor:
    if name not in table:
        raise ArgumentError(
            f"{argument}: there is no column {name!r}{suggest(str(name), table)}; there are {', '.join(table)}"
        )
    return table[name]


def _standardize(values: Tensor, train: Tensor) -> Tensor:
    deviation = train.std(dim=0)
    return (values - train.mean(dim=0)) / torch.where(deviation > 0, deviation, 1.0)
