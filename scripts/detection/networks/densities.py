"""Networks that describe a distribution: flows, scores, noise, mixtures, masked and quantised autoencoders."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection.networks.dense import dense


class Flow(nn.Module):
    """Couplings of two numbers; returns the log density of each point (Dinh et al., arXiv:1605.08803)."""

    def __init__(self, depth: int = 6, width: int = 24) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(dense([1, width, width, 2], nn.Tanh) for _ in range(depth))
        for coupling in self.couplings:
            nn.init.zeros_(coupling[-1].weight)  # type: ignore[index]

    def forward(self, x: Tensor) -> Tensor:
        log_volume = x.new_zeros(len(x))
        for coupling in self.couplings:
            kept, moved = x.chunk(2, dim=1)
            shift, log_scale = coupling(kept).chunk(2, dim=1)
            x = torch.cat([moved * log_scale.exp() + shift, kept], dim=1)
            log_volume = log_volume + log_scale[:, 0]
        return torch.distributions.Normal(0, 1).log_prob(x).sum(dim=1) + log_volume  # type: ignore[no-any-return]


class Timed(nn.Module):
    """A network that also sees sines of a time between 0 and 1."""

    def __init__(self, features: int, width: int, activation: Callable[[], nn.Module] = nn.SiLU) -> None:
        super().__init__()
        self.net = dense([features + 8, width, width, features], activation)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        angles = time * x.new_tensor([1.0, 3.0, 9.0, 27.0])
        y: Tensor = self.net(torch.cat([x, angles.sin(), angles.cos()], dim=1))
        return y


class Mixture(nn.Module):
    """Weights, means and log deviations of normal densities of one number, given others."""

    def __init__(self, features: int, parts: int, width: int = 32) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(features, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh())
        self.weights, self.means, self.spreads = (nn.Linear(width, parts) for _ in range(3))
        with torch.no_grad():
            self.means.bias.copy_(torch.linspace(-1.5, 1.5, parts))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.trunk(x)
        return self.weights(h).log_softmax(dim=1), self.means(h), self.spreads(h)


class MaskedLinear(nn.Linear):
    """A layer of which some weights are multiplied by zero."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask.to(x.dtype), self.bias)


def autoregressive(features: int, width: int) -> nn.Module:
    """Each output sees only the inputs before it (Germain et al., arXiv:1502.03509)."""
    places = torch.arange(features)
    hidden = torch.arange(width) % (features - 1)
    return nn.Sequential(
        MaskedLinear((hidden[:, None] >= places[None]).float()),
        nn.ELU(),
        MaskedLinear((places[:, None] > hidden[None]).float()),
    )


class Quantised(nn.Module):
    """An autoencoder whose code is the nearest of learnt vectors; the gradient passes the choice as if it were none.

    Returns the image and the two distances of code and vector (van den Oord et al., arXiv:1711.00937).
    """

    def __init__(self, entries: int = 24, parts: int = 8) -> None:
        super().__init__()
        self.encoder = dense([64, 64, 4 * parts], nn.SiLU)
        self.entries = nn.Embedding(entries, 4)
        self.decoder = dense([4 * parts, 64, 64], nn.SiLU)
        nn.init.normal_(self.entries.weight, std=0.3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        code = self.encoder(x).view(len(x), -1, 4)
        chosen = self.entries(torch.cdist(code, self.entries.weight).argmin(dim=2))
        passed = code + (chosen - code).detach()
        return self.decoder(passed.flatten(1)), F.mse_loss(code, chosen.detach()), F.mse_loss(chosen, code.detach())
