"""Networks that choose and value choices."""

import torch.nn.functional as F
from torch import Tensor, nn

from detection.networks.dense import dense


class WithValue(nn.Module):
    """A trunk, the logits of a choice, and the value that is expected of it."""

    def __init__(self, features: int, choices: int) -> None:
        super().__init__()
        self.trunk = dense([features, 32, 32], nn.Tanh)
        self.choice, self.value = nn.Linear(32, choices), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.trunk(x).tanh()
        return self.choice(h), self.value(h)[:, 0]


class Dueling(nn.Module):
    """The values of moves: that of the place, and what each is above their mean (Wang et al., arXiv:1511.06581)."""

    def __init__(self, features: int, moves: int) -> None:
        super().__init__()
        self.trunk = nn.Linear(features, 64)
        self.place, self.advantage = dense([64, 32, 1], nn.ELU), dense([64, 32, moves], nn.ELU)

    def forward(self, x: Tensor) -> Tensor:
        h = F.elu(self.trunk(x))
        above = self.advantage(h)
        y: Tensor = self.place(h) + above - above.mean(dim=1, keepdim=True)
        return y
