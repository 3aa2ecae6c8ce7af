"""Networks that tell what was hidden from them, and that read sets with places to be left out."""

import torch
from torch import Tensor, nn

from detection.networks.attention import Block
from detection.networks.dense import dense


class Hidden(nn.Module):
    """A transformer over the rows of an image, where a trained vector stands in place of each hidden row.

    The encoder does not see hidden rows at all (He et al., arXiv:2111.06377).
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embedding, self.output = nn.Linear(8, width), nn.Linear(width, 8)
        self.mask = nn.Parameter(0.02 * torch.randn(width))
        self.places = nn.Parameter(0.3 * torch.randn(8, width))
        self.encoder, self.decoder = (Block(width, 2, residual=True, norm=True) for _ in range(2))

    def forward(self, rows: Tensor, order: Tensor) -> Tensor:
        places = self.places[order]
        h = self.embedding(rows) + places[:, : rows.shape[1]]
        h = self.encoder(h)
        unseen = self.mask + places[:, rows.shape[1] :]
        y: Tensor = self.output(self.decoder(torch.cat([h, unseen], dim=1)))[:, rows.shape[1] :]
        return y


class Cloze(nn.Module):
    """A transformer over characters of which some are replaced by one more symbol."""

    def __init__(self, symbols: int, places: int, width: int = 32) -> None:
        super().__init__()
        self.symbols, self.places = nn.Embedding(symbols + 1, width), nn.Embedding(places, width)
        self.blocks = nn.ModuleList(Block(width, 4, residual=True, norm=True) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, symbols)

    def forward(self, ids: Tensor) -> Tensor:
        h = self.symbols(ids) + self.places(torch.arange(ids.shape[1]))
        for block in self.blocks:
            h = block(h)
        y: Tensor = self.output(self.norm(h))
        return y


class SetEncoder(nn.Module):
    """Attention over the members of a set of which some are missing; a row of zeros is a missing one."""

    def __init__(self, features: int, width: int = 24) -> None:
        super().__init__()
        self.embedding = nn.Linear(features, width)
        self.seed = nn.Parameter(torch.randn(1, 1, width))
        self.among, self.pool = (nn.MultiheadAttention(width, 2, batch_first=True) for _ in range(2))
        self.dense = dense([width, 2 * width, width], nn.GELU)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.output = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        missing = (x == 0).all(dim=2)
        h = self.embedding(x)
        n = self.norms[0](h)
        h = h + self.among(n, n, n, key_padding_mask=missing, need_weights=False)[0]
        h = h + self.dense(self.norms[1](h))
        n = self.norms[2](h)
        pooled = self.pool(self.seed.expand(len(x), -1, -1), n, n, key_padding_mask=missing, need_weights=False)[0]
        y: Tensor = self.output(pooled[:, 0])
        return y


class DeepSet(nn.Module):
    """The sum of what one network makes of each member, and another (Zaheer et al., arXiv:1703.06114)."""

    def __init__(self, features: int, width: int = 32) -> None:
        super().__init__()
        self.member, self.whole = dense([features, width, width], nn.ELU), dense([width, width, 1], nn.ELU)

    def forward(self, x: Tensor) -> Tensor:
        there = (x != 0).any(dim=2, keepdim=True)
        y: Tensor = self.whole((self.member(x) * there).sum(dim=1))
        return y
