"""Handwritten digits."""

from collections.abc import Sequence

import torch

from lightning_gradtools.tasks.data.bundled import load_bundled
from lightning_gradtools.tasks.data.in_memory import InMemoryDataModule, Splits
from lightning_gradtools.tasks.data.loading import TensorPairs


class DigitsData(InMemoryDataModule):
    """The 1797 grey images of 8x8 pixels in ten classes that come with scikit-learn.

    A batch is (images, labels): float32 (batch, 1, 8, 8), or (batch, 64) if ``flat``, and int64 (batch,).

    Args:
        batch_size: images in a batch, on each rank.
        flat: give each image as a vector of 64 pixels.
        standardize: subtract the training pixels' mean and divide by their standard deviation, two numbers
            for the whole image (some pixels are 0 in every image); otherwise pixels are in [0, 1].
        fractions: the shares of train, val and test.
        seed: fixes the split and, in a single process, each epoch's order.
        num_workers: processes that load. 0 is fastest for data in memory.

    Raises:
        ArgumentError: if an argument is out of its range, a split is empty, a rank's training set is smaller
            than a batch, or scikit-learn is not installed.
    """

    num_classes = 10

    def __init__(
        self,
        batch_size: int = 64,
        flat: bool = False,
        standardize: bool = True,
        fractions: Sequence[float] = (0.7, 0.15, 0.15),
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, fractions, seed, num_workers)
        self.flat = flat
        self.standardize = standardize

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return (64,) if self.flat else (1, 8, 8)

    @property
    def num_features(self) -> int:
        """Pixels in an image."""
        return 64

    def load(self) -> Splits:
        """Return the images, split at random."""
        bundled = load_bundled("digits")
        images = torch.as_tensor(bundled.data, dtype=torch.float32).view(-1, *self.input_shape) / 16
        labels = torch.as_tensor(bundled.target, dtype=torch.int64)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(self.seed))
        train, val, test = order.split(self.split_sizes(len(images)))
        if self.standardize:
            images = (images - images[train].mean()) / images[train].std()
        return Splits(*(TensorPairs(images[rows], labels[rows]) for rows in (train, val, test)))
