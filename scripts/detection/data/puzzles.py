"""Questions that nothing is known of until all is: long plateaus."""

from functools import lru_cache

import torch
import torch.nn.functional as F

from detection.data.training_set import Data, make


@lru_cache
def modular(prime: int = 11) -> Data:
    """Two numbers, and their sum modulo a prime."""
    pairs = torch.cartesian_prod(torch.arange(prime), torch.arange(prime))
    return make(pairs, pairs.sum(dim=1) % prime)


@lru_cache
def parity_of_bits(bits: int = 10, relevant: int = 3) -> Data:
    """All rows of bits, 1 or -1: is the product of the first three positive? No single one tells anything."""
    rows = torch.tensor([[1.0 if n >> i & 1 else -1.0 for i in range(bits)] for n in range(2**bits)])
    return make(rows, (rows[:, :relevant].prod(dim=1) > 0).long())


@lru_cache
def adding(samples: int = 512, length: int = 16) -> Data:
    """Random numbers of which two are marked: their sum (Hochreiter and Schmidhuber 1997)."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.rand(samples, length, generator=generator)
    first = torch.randint(length // 2, (samples,), generator=generator)
    second = length // 2 + torch.randint(length // 2, (samples,), generator=generator)
    marks = F.one_hot(first, length) + F.one_hot(second, length)
    return make(torch.stack([numbers, marks.float()], dim=2), (numbers * marks).sum(dim=1, keepdim=True))


@lru_cache
def teacher_matrix(samples: int = 512) -> Data:
    """What a matrix of singular values 3, 1 and 0.4 makes of noise."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 8, generator=generator)
    left, right = (torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q for _ in range(2))
    values = torch.tensor([3.0, 1.0, 0.4, 0, 0, 0, 0, 0])
    return make(x, x @ left @ values.diag() @ right)


@lru_cache
def reversal(samples: int = 192, length: int = 6, symbols: int = 6) -> Data:
    """A row of symbols, to be given back from its end."""
    rows = torch.randint(symbols, (samples, length), generator=torch.Generator().manual_seed(0))
    return make(rows, rows.flip(1))


@lru_cache
def repeated(samples: int = 96, length: int = 8, symbols: int = 8) -> Data:
    """A row of symbols twice: the next symbol, of which the first half cannot be known."""
    rows = torch.randint(symbols, (samples, length), generator=torch.Generator().manual_seed(0)).repeat(1, 2)
    return make(rows[:, :-1], rows[:, 1:])
