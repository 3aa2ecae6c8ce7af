"""Digits of 8 by 8 pixels, whole, as rows or as pixels, and questions about them."""

from dataclasses import replace
from functools import lru_cache

import torch

from detection.data.training_set import Data, make
from lightning_gradtools.tasks.data.digits import DigitsData


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


def pixels() -> Data:
    """Digits with pixels from 0 to 1; some are 0 in every image."""
    return digits(standardize=False)


def half_image() -> Data:
    """The upper half of an image, of which the lower one is to be told."""
    return make(pixels().inputs[:, :32], pixels().inputs[:, 32:])


def parity() -> Data:
    """Is the digit odd?"""
    return make(digits().inputs, digits().targets % 2)


@lru_cache
def one_digit(digit: int = 9) -> Data:
    """Is it this digit? One in ten is."""
    return make(digits().inputs, (digits().targets == digit).long())


def few_digits() -> Data:
    """48 images: a network that works learns them by heart."""
    return make(digits().inputs[:48], digits().targets[:48])


def digit_bits() -> Data:
    """Four numbers, 0 or 1: the digit in binary."""
    digit = digits().targets
    return make(digits().inputs, torch.stack([digit >> i & 1 for i in range(4)], dim=1).float())


def rare_class() -> Data:
    """All digits but the zeros, and 24 of those: is it a zero?"""
    given = digits()
    zero = given.targets == 0
    kept = ~zero | (zero.cumsum(0) <= 24)
    return make(given.inputs[kept], zero[kept].long())


@lru_cache
def noisy_labels(share: float = 0.3) -> Data:
    """Digits of which a share has a random class: most of the loss cannot be learnt."""
    data = digits()
    generator = torch.Generator().manual_seed(0)
    wrong = torch.rand(len(data.targets), generator=generator) < share
    drawn = torch.randint(10, data.targets.shape, generator=generator)
    return make(data.inputs, torch.where(wrong, drawn, data.targets))
