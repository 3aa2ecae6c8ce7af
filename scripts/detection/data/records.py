"""Choices, transitions and other records, drawn from a formula or from text."""

import math
from functools import lru_cache

import torch

from detection.data.characters import VOCABULARY
from detection.data.tables import wine
from detection.data.training_set import Data, make
from lightning_gradtools.tasks.data.text import encode, standard_library_text


@lru_cache
def preferences(samples: int = 4096) -> Data:
    """User, an item that suits them and a random one; a third of the items is never taken. The targets are not used."""
    generator = torch.Generator().manual_seed(0)
    users, items = torch.randn(60, 4, generator=generator), torch.randn(200, 4, generator=generator)
    user = torch.randint(60, (samples,), generator=generator)
    offered = torch.randint(134, (samples, 12), generator=generator)
    best = (users[user][:, None] * items[offered]).sum(dim=2).argmax(dim=1)
    taken = offered.gather(1, best[:, None])[:, 0]
    other = torch.randint(134, (samples,), generator=generator)
    return Data(torch.stack([user, taken, other], dim=1), torch.zeros(samples, 1), math.log(2))


@lru_cache
def skip_grams(pairs: int = 3000) -> Data:
    """Pairs of characters that stand side by side, and as many of random ones: are they?"""
    ids = encode(standard_library_text(pairs + 1))
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(int(ids.max()) + 1, (2 * pairs,), generator=generator)
    real = torch.stack([ids[:-1], ids[1:]], dim=1)
    made = torch.stack([ids[:-1].repeat(2)[: len(drawn)], drawn], dim=1)
    truth = torch.cat([torch.ones(len(real), 1), torch.zeros(len(made), 1)])
    share = len(real) / len(truth)
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    return Data(torch.cat([real, made]), truth, entropy)


@lru_cache
def low_rank() -> Data:
    """The entries of a table of 48 rows and 32 columns that is the product of two thin ones."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.randn(48, 3, generator=generator), torch.randn(32, 3, generator=generator)
    table = rows @ columns.t() / 3**0.5
    return make(torch.cartesian_prod(torch.arange(48), torch.arange(32)), table.flatten()[:, None])


@lru_cache
def two_sources() -> Data:
    """Wines, half of them shifted; a 14th number says which. To be told is the class."""
    given = wine()
    generator = torch.Generator().manual_seed(0)
    source = torch.randint(2, (len(given.inputs), 1), generator=generator).float()
    shift = 0.7 * torch.randn(13, generator=generator)
    return make(torch.cat([given.inputs + source * shift, source], dim=1), given.targets)


@lru_cache
def grid(discount: float, repeats: int = 4) -> Data:
    """All moves on a board of 5 by 5, whose last corner ends the game with a reward of 1.

    A row is the place, the move, the next place (one-hot each), the reward and whether the game ends; the targets are
    the true values of the four moves, for judging alone.
    """
    step = {0: (0, 1), 1: (0, -1), 2: (1, 0), 3: (-1, 0)}

    def after(place: int, move: int) -> int:
        row, column = place // 5 + step[move][0], place % 5 + step[move][1]
        return 5 * min(4, max(0, row)) + min(4, max(0, column))

    leads = torch.tensor([[after(place, move) for move in range(4)] for place in range(25)])
    reward = (leads == 24).double()
    values = torch.zeros(25, 4, dtype=torch.float64)
    for _ in range(100):
        values = reward + discount * (1 - reward) * values.amax(dim=1)[leads]
    places, moves = torch.cartesian_prod(torch.arange(24), torch.arange(4)).unbind(dim=1)
    there = leads[places, moves]
    ends = reward[places, moves][:, None].float()
    rows = torch.cat([torch.eye(25)[places], torch.eye(4)[moves], torch.eye(25)[there], ends, ends], dim=1)
    return make(rows.repeat(repeats, 1), values[places].float().repeat(repeats, 1))


@lru_cache
def one_hot_classes(samples: int = 640) -> Data:
    """A symbol of 64, and the one of ten classes that it mostly stands for."""
    generator = torch.Generator().manual_seed(0)
    meant = torch.randint(10, (64,), generator=generator)
    symbol = torch.randint(64, (samples,), generator=generator)
    drawn = torch.randint(10, (samples,), generator=generator)
    noisy = torch.rand(samples, generator=generator) < 0.15
    return make(symbol, torch.where(noisy, drawn, meant[symbol]))


@lru_cache
def sets(samples: int = 400, members: int = 6) -> Data:
    """Up to six members of three numbers, a missing one all zeros: the largest of some sum of theirs."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, members, 3, generator=generator)
    there = torch.rand(samples, members, generator=generator) < 0.7
    there[:, 0] = True
    largest = (x.sum(dim=2) / 3**0.5).masked_fill(~there, -torch.inf).amax(dim=1, keepdim=True)
    return make(x * there[:, :, None], largest)


@lru_cache
def successors(characters: int = 20_000) -> Data:
    """A character, and the probabilities of the one after it; only those that occur often."""
    ids = encode(standard_library_text(characters))
    counts = torch.zeros(int(ids.max()) + 1, VOCABULARY)
    counts.index_put_((ids[:-1], ids[1:]), torch.ones(len(ids) - 1), accumulate=True)
    often = counts.sum(dim=1) > 100
    shares = counts[often] / counts[often].sum(dim=1, keepdim=True)
    mean = shares.mean(dim=0, keepdim=True)
    divergence = float((torch.special.xlogy(shares, shares) - torch.special.xlogy(shares, mean)).sum(dim=1).mean())
    return Data(torch.eye(VOCABULARY)[: len(often)][often], shares, divergence)
