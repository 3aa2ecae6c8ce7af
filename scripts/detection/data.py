"""Training sets small enough to be measured whole, with the loss that a constant prediction has on them."""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from lightning_gradtools.tasks.data.digits import DigitsData
from lightning_gradtools.tasks.data.tabular import TabularData
from lightning_gradtools.tasks.data.text import ALPHABET, encode, standard_library_text

VOCABULARY = len(ALPHABET) + 1


@dataclass(frozen=True)
class Data:
    """A training set.

    Attributes:
        inputs: (samples, ...).
        targets: class indices int64 (samples, ...) or numbers float32 (samples, outputs).
        constant_loss: of the best prediction that ignores its input: the entropy of the classes in nats, or the
            variance of the numbers. It is the loss that a network with no signal ends at, and our unit of loss.
    """

    inputs: Tensor
    targets: Tensor
    constant_loss: float


def make(inputs: Tensor, targets: Tensor) -> Data:
    """Return the data with its constant loss."""
    if targets.dtype == torch.int64:
        shares = torch.bincount(targets.flatten()).double() / targets.numel()
        return Data(inputs, targets, -float(torch.special.xlogy(shares, shares).sum()))
    return Data(inputs, targets, float(targets.double().var(dim=0, correction=0).mean()))


@lru_cache
def digits(standardize: bool = True) -> Data:
    """640 images of 64 pixels, ten classes."""
    return make(*DigitsData(flat=True, standardize=standardize).splits.train.__getitems__(range(640)))


@lru_cache
def digit_images() -> Data:
    """192 of them as (1, 8, 8)."""
    data = digits()
    return make(data.inputs[:192].view(-1, 1, 8, 8), data.targets[:192])


@lru_cache
def digit_rows() -> Data:
    """The same as sequences of 8 rows."""
    data = digits()
    return replace(data, inputs=data.inputs.view(-1, 8, 8))


@lru_cache
def digit_pixels() -> Data:
    """The same as sequences of 64 pixels, 200 of them."""
    data = digits()
    return make(data.inputs[:200].view(-1, 64, 1), data.targets[:200])


@lru_cache
def digit_reconstruction(scale: float = 1.0) -> Data:
    """Images of 64 pixels in [0, ``scale``], to be given back."""
    pixels = digits(standardize=False).inputs * scale
    return make(pixels, pixels)


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


@lru_cache
def text(context_length: int = 32, windows: int = 64) -> Data:
    """Windows of characters and their next characters."""
    ids = encode(standard_library_text(windows * context_length + 1))
    return make(ids[:-1].view(windows, context_length), ids[1:].view(windows, context_length))


@lru_cache
def bags(windows: int = 640) -> Data:
    """Windows of 24 characters; the class says in which third the share of letters falls."""
    ids = encode(standard_library_text(24 * windows)).view(windows, 24)
    letters = ((ids >= 13) & (ids <= 64)).float().mean(dim=1)
    return make(ids, torch.bucketize(letters, letters.quantile(torch.tensor([1 / 3, 2 / 3]))))


@lru_cache
def noisy_labels(share: float = 0.3) -> Data:
    """Digits of which a share has a random class: most of the loss cannot be learnt."""
    data = digits()
    generator = torch.Generator().manual_seed(0)
    wrong = torch.rand(len(data.targets), generator=generator) < share
    drawn = torch.randint(10, data.targets.shape, generator=generator)
    return make(data.inputs, torch.where(wrong, drawn, data.targets))


@lru_cache
def ring(samples: int = 1024) -> Data:
    """Points of a noisy circle, for a generator to imitate; the targets are not used."""
    generator = torch.Generator().manual_seed(0)
    angle = 2 * torch.pi * torch.rand(samples, generator=generator)
    points = torch.stack([angle.cos(), angle.sin()], dim=1) + 0.05 * torch.randn(samples, 2, generator=generator)
    # the squared distance that `Adversarial` measures, for a generator that gives the mean point only
    return Data(points + torch.tensor([2.0, -1.0]), points, float(points.var(dim=0).sum()))


@lru_cache
def iris() -> Data:
    """All 150 flowers of 4 standardised numbers, three classes."""
    raw = unscaled_table("iris")
    return replace(raw, inputs=(raw.inputs - raw.inputs.mean(dim=0)) / raw.inputs.std(dim=0))


@lru_cache
def waves(samples: int = 512) -> Data:
    """A smooth function of two numbers, without noise."""
    x = 2 * torch.rand(samples, 2, generator=torch.Generator().manual_seed(0)) - 1
    return make(x, (torch.sin(3 * x[:, :1]) * torch.cos(2 * x[:, 1:])) / 0.45)


@lru_cache
def recall(samples: int = 512, length: int = 12) -> Data:
    """Sequences of noise whose first element is one of four points: which, is to be told at the end."""
    generator = torch.Generator().manual_seed(0)
    which = torch.randint(4, (samples,), generator=generator)
    inputs = 0.1 * torch.randn(samples, length, 2, generator=generator)
    inputs[:, 0] += torch.stack([which % 2, which // 2], dim=1) * 2.0 - 1.0
    return make(inputs, which)


@lru_cache
def one_digit(digit: int = 9) -> Data:
    """Is it this digit? One in ten is."""
    return make(digits().inputs, (digits().targets == digit).long())


@lru_cache
def flipped_classes(name: str, share: float = 0.15) -> Data:
    """A table of two classes, with a share of them wrong."""
    data = table(name)
    wrong = torch.rand(len(data.targets), generator=torch.Generator().manual_seed(0)) < share
    return make(data.inputs, torch.where(wrong, 1 - data.targets, data.targets))


@lru_cache
def clusters(samples: int = 1024) -> Data:
    """Points around three corners, for a generator to imitate; the targets are not used."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.tensor([[-1.0, 0.0], [1.0, 0.5], [0.5, 2.0]])
    points = corners[torch.randint(3, (samples,), generator=generator)]
    points = points + 0.1 * torch.randn(samples, 2, generator=generator)
    return Data(points, points, float(points.var(dim=0).sum()))


def scaled(data: Data, factor: float) -> Data:
    """Return the data with inputs multiplied."""
    return replace(data, inputs=data.inputs * factor)


def with_value(data: Data, value: float, sample: int = 37) -> Data:
    """Return the data with one number of one sample's input replaced."""
    inputs = data.inputs.clone()
    inputs[sample].view(-1)[3] = value
    return replace(data, inputs=inputs)


def with_target(data: Data, value: float, sample: int = 37) -> Data:
    """Return the data with one sample's target replaced; the constant loss stays that of the others."""
    targets = data.targets.clone()
    targets[sample] = value
    return replace(data, targets=targets)
