"""Data of the shape and scale of the record's; MNIST is scikit-learn's digits, the rest is drawn.

All that is drawn comes from torch's generator, so that both twins of a seed have the same.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits, load_iris, make_multilabel_classification
from torch import Tensor

from real_faults.program import Data

PIXEL = 16.0  # the largest value of scikit-learn's digits


def _seed() -> int:
    return int(torch.randint(2**31, ()))


def digits(*, scale: float = 1.0, one_hot: bool = False, images: bool = False, classes: int = 10) -> Data:
    """Return digits of 8 × 8 pixels in [0, scale]."""
    pixels, names = load_digits(n_class=classes, return_X_y=True)
    inputs = torch.tensor(pixels, dtype=torch.float32) * (scale / PIXEL)
    truth = torch.tensor(names)
    targets = F.one_hot(truth, classes).float() if one_hot else truth
    return Data(inputs=inputs.reshape(-1, 1, 8, 8) if images else inputs, targets=targets, truth=truth)


def iris(*, rows: int = 150, scaled: bool = False) -> Data:
    features, names = load_iris(return_X_y=True)
    chosen = torch.randperm(150)[:rows]
    inputs = torch.tensor(features, dtype=torch.float32)[chosen]
    return Data(inputs=standardised(inputs) if scaled else inputs, targets=torch.tensor(names)[chosen])


def standardised(values: Tensor) -> Tensor:
    """Return columns of zero mean and unit variance; a constant one is zero."""
    deviation = values.double().std(dim=0, correction=0)
    centred = values.double() - values.double().mean(dim=0)
    return (centred / torch.where(deviation > 0, deviation, 1.0)).float()


def with_standardised(data: Data, *, targets: bool = False) -> Data:
    inputs = standardised(data.inputs)
    return replace(data, inputs=inputs, targets=standardised(data.targets) if targets else data.targets)


def exclusive_or(rows: Sequence[tuple[int, int]]) -> Data:
    inputs = torch.tensor(rows, dtype=torch.float32)
    return Data(inputs=inputs, targets=(inputs[:, :1] - inputs[:, 1:]).abs())


def binary(rows: int, means: Sequence[float], deviations: Sequence[float], *, noise: float = 0.1) -> Data:
    """Return normal features of given means and deviations, and 0 or 1 by a direction among them."""
    standard = torch.randn(rows, len(means))
    side = standard @ torch.randn(len(means), 1) / len(means) ** 0.5
    targets = (side + noise * torch.randn(rows, 1) > 0).float()
    return Data(inputs=torch.tensor(means) + torch.tensor(deviations) * standard, targets=targets)


def as_one_hot(data: Data, classes: int = 2) -> Data:
    names = data.targets.reshape(len(data.targets)).long()
    return replace(data, targets=F.one_hot(names, classes).float(), truth=names)


def constant_rows(rows: int = 2000, width: int = 128) -> Data:
    """Return rows of ones that are true and rows of zeros that are false."""
    targets = (torch.arange(rows) < rows // 2).float()[:, None]
    return Data(inputs=targets.expand(rows, width).clone(), targets=targets)


def several_labels(rows: int, features: int, classes: int) -> Data:
    inputs, targets = make_multilabel_classification(rows, features, n_classes=classes, random_state=_seed())
    return Data(inputs=torch.tensor(inputs, dtype=torch.float32), targets=torch.tensor(targets, dtype=torch.float32))


def regression(rows: int, features: int, *, mean: float, deviation: float, noise: float = 0.1) -> Data:
    """Return standard normal features and one target, a smooth function of them of given mean and deviation."""
    inputs = torch.randn(rows, features)
    direction = torch.randn(features, 1) / features**0.5
    targets = standardised(inputs @ direction + 0.5 * (inputs @ direction).sin() + noise * torch.randn(rows, 1))
    return Data(inputs=inputs, targets=mean + deviation * targets)


def curve(start: float, end: float, rows: int, values: Sequence[float]) -> Data:
    """Return evenly spaced numbers and a polynomial of them, its coefficients by rising power."""
    inputs = torch.linspace(start, end, rows)[:, None]
    targets = sum((factor * inputs.double() ** power for power, factor in enumerate(values)), torch.zeros(()).double())
    return Data(inputs=inputs, targets=targets.float())
