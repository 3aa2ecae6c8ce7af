"""Networks that send each sample, or each place, to few of several experts; networks that make networks."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection.networks.attention import Block
from detection.networks.dense import dense


class Routed(nn.Module):
    """The ``taken`` experts with the largest gates, and how unevenly all of them are used.

    The second output is the number of experts times the product of each one's share of samples and mean gate, summed
    (Fedus et al., arXiv:2101.03961): 1 if they share alike. ``noise`` is added to the gates.
    """

    def __init__(
        self, features: int, outputs: int, experts: int, taken: int, noise: float = 0.0, hidden: int = 24
    ) -> None:
        super().__init__()
        self.gate = nn.Linear(features, experts, bias=False)
        self.experts = nn.ModuleList(dense([features, hidden, outputs], nn.GELU) for _ in range(experts))
        self.taken, self.noise = taken, noise

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.gate(x)
        gates = logits.softmax(dim=1)
        chosen = (logits + self.noise * torch.randn_like(logits)).topk(self.taken, dim=1).indices
        used = torch.zeros_like(gates).scatter(1, chosen, 1.0)
        y = x.new_zeros(len(x), self.experts[0][-1].out_features)  # type: ignore[index]
        for index, expert in enumerate(self.experts):
            rows = used[:, index].nonzero()[:, 0]
            if len(rows):
                y = y.index_add(0, rows, gates[rows, index, None] * expert(x[rows]))
        uneven = len(self.experts) * (used.mean(dim=0) / self.taken * gates.mean(dim=0)).sum()
        return y, uneven


class RoutedEncoder(nn.Module):
    """A transformer over the rows of a digit whose dense layers are routed, row by row."""

    def __init__(self, depth: int = 2, width: int = 24, experts: int = 4, taken: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Linear(8, width)
        self.position = nn.Parameter(0.3 * torch.randn(8, width))
        self.attentions = nn.ModuleList(Block(width, 2, residual=True, norm=True) for _ in range(depth))
        for block in self.attentions:
            block.dense = nn.Identity()  # the routed layers stand in its place
            block.second = nn.Identity()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.routed = nn.ModuleList(Routed(width, width, experts, taken, noise=0.3) for _ in range(depth))
        self.output = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.embedding(x) + self.position
        uneven = x.new_zeros(())
        for block, norm, routed in zip(self.attentions, self.norms, self.routed, strict=True):
            h = h + block.attention(block.first(h))  # type: ignore[operator]
            y, more = routed(norm(h).flatten(0, 1))
            h, uneven = h + y.view_as(h), uneven + more
        return self.output(h.mean(dim=1)), uneven


class Blended(nn.Module):
    """Slots that are means of all samples' rows go to the experts, and come back as means (arXiv:2308.00951)."""

    def __init__(self, width: int = 24, experts: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Linear(8, width)
        self.slots = nn.Parameter(torch.randn(width, experts) / width**0.5)
        self.experts = nn.ModuleList(dense([width, 32, width], nn.GELU) for _ in range(experts))
        self.output = nn.Linear(8 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embedding(x)
        logits = h @ self.slots
        slots = logits.softmax(dim=1).transpose(1, 2) @ h
        made = torch.stack([expert(slots[:, i]) for i, expert in enumerate(self.experts)], dim=1)
        y: Tensor = self.output((h + logits.softmax(dim=2) @ made).flatten(1))
        return y


class Hyper(nn.Module):
    """A network that makes the weights of the one that answers, from some of the numbers (Ha et al. 2016)."""

    def __init__(self, features: int, condition: int, width: int = 12) -> None:
        super().__init__()
        self.features, self.width = features, width
        sizes = [features * width, width, width, 1]
        self.make = dense([condition, 32, sum(sizes)], nn.SiLU)
        self.sizes = sizes

    def forward(self, x: Tensor) -> Tensor:
        seen, condition = x[:, : self.features], x[:, self.features :]
        first, bias, second, last = self.make(condition).split(self.sizes, dim=1)
        h = torch.bmm(seen[:, None], first.view(-1, self.features, self.width))[:, 0] + bias
        return (F.silu(h) * second).sum(dim=1, keepdim=True) + last  # type: ignore[no-any-return]
