"""A training set small enough to be measured whole, and what may be done to one."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


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


def with_targets(given: Data, factor: float, offset: float) -> Data:
    return make(given.inputs, factor * given.targets + offset)


def judged(given: Data, constant_loss: float) -> Data:
    """Return the data with the constant loss of another objective than cross-entropy or squared error."""
    return replace(given, constant_loss=constant_loss)


def first(given: Data, samples: int) -> Data:
    """Return the first samples of the data."""
    return make(given.inputs[:samples], given.targets[:samples])
