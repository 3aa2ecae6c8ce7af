"""Small tables that scikit-learn ships, and questions about them."""

from dataclasses import replace
from functools import lru_cache

import torch

from detection.data.training_set import Data, make
from lightning_gradtools.tasks.data.tabular import TabularData


@lru_cache
def table(name: str, standardize_target: bool = True) -> Data:
    """`wine` or `breast_cancer` (classes) or `diabetes` (one number)."""
    train = TabularData(name, standardize_target=standardize_target).splits.train
    inputs, targets = train.__getitems__(range(len(train)))
    return make(inputs, targets if targets.dtype == torch.int64 else targets[:, None])


@lru_cache
def unscaled_table(name: str) -> Data:
    """The same with features in their own units, up to the thousands."""
    import sklearn.datasets

    bundled = getattr(sklearn.datasets, f"load_{name}")()
    return make(torch.as_tensor(bundled.data).float(), torch.as_tensor(bundled.target).long())


def wine() -> Data:
    return table("wine")


def cancer() -> Data:
    return table("breast_cancer")


def diabetes() -> Data:
    return table("diabetes")


@lru_cache
def iris() -> Data:
    """All 150 flowers of 4 standardised numbers, three classes."""
    raw = unscaled_table("iris")
    return replace(raw, inputs=(raw.inputs - raw.inputs.mean(dim=0)) / raw.inputs.std(dim=0))


def wine_code() -> Data:
    """13 features to be given back."""
    return make(wine().inputs, wine().inputs)


def petal() -> Data:
    """The width of a petal from the flower's other three numbers."""
    return make(iris().inputs[:, :3], iris().inputs[:, 3:])


def setosa() -> Data:
    """Is it the flower that a line tells from the others?"""
    return make(iris().inputs, (iris().targets == 0).long())


@lru_cache
def flipped_classes(name: str, share: float = 0.15) -> Data:
    """A table of two classes, with a share of them wrong."""
    data = table(name)
    wrong = torch.rand(len(data.targets), generator=torch.Generator().manual_seed(0)) < share
    return make(data.inputs, torch.where(wrong, 1 - data.targets, data.targets))
