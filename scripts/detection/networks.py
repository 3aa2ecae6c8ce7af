"""Small networks for recipes, beside those of `lightning_gradtools.tasks.networks`."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def dense(
    sizes: Sequence[int], activation: Callable[[], nn.Module] = nn.ReLU, between: type | None = None
) -> nn.Module:
    """Return linear layers with an activation after all but the last, and a norm before it if one is given."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), *([between(after)] if between else []), activation()]
    return nn.Sequential(*layers[: -2 if between else -1])


@torch.no_grad()
def initialized(net: nn.Module, weights: Callable[[Tensor], object], biases: float | None = 0.0) -> nn.Module:
    """Return the network with ``weights`` applied to every matrix and kernel, and its biases set."""
    for layer in net.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            weights(layer.weight)
            if layer.bias is not None and biases is not None:
                layer.bias.fill_(biases)
    return net


def he(scale: float = 1.0) -> Callable[[Tensor], object]:
    """Return He's initialisation times ``scale``."""
    return lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu").mul_(scale)


def xavier(scale: float = 1.0) -> Callable[[Tensor], object]:
    """Return Glorot's initialisation times ``scale``."""
    return lambda weight: nn.init.xavier_normal_(weight).mul_(scale)


def constant(value: float) -> Callable[[Tensor], object]:
    """Return the initialisation of every weight with one value."""
    return lambda weight: weight.fill_(value)


class Exponential(nn.Module):
    """exp(x), one of the activations that AutoTrainer's recipes stack."""

    def forward(self, x: Tensor) -> Tensor:
        return x.exp()


class FunctionalMLP(nn.Module):
    """A multilayer perceptron whose ReLU is a function: there is no module to hook."""

    def __init__(self, sizes: Sequence[int], relu: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(sizes[:-1]))
        self.output = nn.Linear(sizes[-2], sizes[-1])
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.hidden:
            x = self.relu(layer(x))
        y: Tensor = self.output(x)
        return y


class PlainCNN(nn.Module):
    """3x3 convolutions without normalisation, and a linear output on the mean over space."""

    def __init__(self, channels: Sequence[int], activation: Callable[[], nn.Module] = nn.ReLU) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise([1, *channels]):
            layers += [nn.Conv2d(before, after, 3, padding=1), activation()]
        self.features = nn.Sequential(*layers)
        self.output = nn.Linear(channels[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.output(self.features(x).mean(dim=(2, 3)))
        return y


class Recurrent(nn.Module):
    """An RNN, LSTM or GRU and a linear output on its last state; (batch, time, features) to (batch, 10).

    ``gain`` multiplies an orthogonal recurrent matrix: every state is multiplied by it at every time step.
    """

    def __init__(
        self, cell: Callable[..., nn.Module], features: int, hidden: int = 48, gain: float | None = None
    ) -> None:
        super().__init__()
        self.cell = cell(features, hidden, batch_first=True)
        self.output = nn.Linear(hidden, 10)
        if gain is not None:
            for name, weight in self.cell.named_parameters():
                if name.startswith("weight_hh"):
                    for block in torch.split(weight.data, hidden):
                        nn.init.orthogonal_(block, gain)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.output(self.cell(x)[0][:, -1])
        return y


class ResidualStack(nn.Module):
    """x + gain * f(x), without normalisation, many times: each block multiplies the variance."""

    def __init__(self, depth: int, width: int = 48, gain: float = 1.0, zero: bool = False) -> None:
        super().__init__()
        self.input = nn.Linear(64, width)
        self.blocks = nn.ModuleList(dense([width, width, width]) for _ in range(depth))
        self.output = nn.Linear(width, 10)
        initialized(self, he())
        for block in self.blocks:
            block[-1].weight.data.mul_(0.0 if zero else gain)  # type: ignore[index]

    def forward(self, x: Tensor) -> Tensor:
        x = self.input(x)
        for block in self.blocks:
            x = x + block(x)
        y: Tensor = self.output(x)
        return y


class TwoBranches(nn.Module):
    """Two hidden layers side by side. ``cut`` is what happens to the second one's output."""

    def __init__(self, cut: Callable[[Tensor], Tensor] = lambda h: h) -> None:
        super().__init__()
        self.left, self.right = dense([64, 32, 32]), dense([64, 32, 32])
        self.output = nn.Linear(64, 10)
        self.cut = cut

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.output(torch.cat([self.left(x), self.cut(self.right(x))], dim=1).relu())
        return y


class SparseBag(nn.Module):
    """The mean of embeddings with sparse gradients, and a linear output."""

    def __init__(self, vocabulary: int, width: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, sparse=True)
        self.output = nn.Linear(width, classes)

    def forward(self, ids: Tensor) -> Tensor:
        y: Tensor = self.output(self.embedding(ids).mean(dim=1))
        return y


class SharpAttention(nn.Module):
    """A transformer layer with ``sharpness`` times the usual attention logits; (batch, 8, 8) to (batch, 10)."""

    def __init__(self, width: int = 32, sharpness: float = 1.0) -> None:
        super().__init__()
        self.embedding = nn.Linear(8, width)
        self.position = nn.Parameter(0.1 * torch.randn(8, width))
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.softmax = nn.Softmax(dim=-1)
        self.hidden = nn.Linear(width, width)
        self.output = nn.Linear(width, 10)
        self.scale = sharpness / width**0.5

    def forward(self, x: Tensor) -> Tensor:
        h = self.embedding(x) + self.position
        weights = self.softmax(self.query(h) @ self.key(h).transpose(1, 2) * self.scale)
        h = F.gelu(self.hidden(weights @ self.value(h)))
        y: Tensor = self.output(h.mean(dim=1))
        return y


class FrozenBackbone(nn.Module):
    """Random features that are not trained, and a head that is."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = dense([64, 128, 128])
        self.backbone.requires_grad_(False)
        self.head = dense([128, 32, 10])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.backbone(x).relu())
        return y


class Forgotten(nn.Module):
    """A network with a layer that its forward does not call, or calls under ``no_grad``."""

    def __init__(self, no_grad: bool) -> None:
        super().__init__()
        self.encoder = dense([64, 48, 48])
        self.auxiliary = nn.Linear(48, 10)
        self.head = dense([48, 32, 10])
        self.no_grad = no_grad

    def forward(self, x: Tensor) -> Tensor:
        if self.no_grad:
            with torch.no_grad():
                h = self.encoder(x)
            return self.head(h.relu()) + self.auxiliary(h)  # type: ignore[no-any-return]
        y: Tensor = self.head(self.encoder(x).relu())
        return y


class NormOfZero(nn.Module):
    """x times 1 + the root of a sum of squares that is zero: a finite value with a gradient of 0 / 0."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + (x - x).square().sum(dim=1, keepdim=True).sqrt())


class AdversarialPair(nn.Module):
    """A generator of points from noise and a discriminator."""

    generator: nn.Module
    discriminator: nn.Module

    def __init__(self, width: int = 48, scale: float = 1.0) -> None:
        super().__init__()
        self.generator = initialized(dense([4, width, width, 2], lambda: nn.LeakyReLU(0.2)), he())
        self.discriminator = initialized(dense([2, width, width, 1], lambda: nn.LeakyReLU(0.2)), he(scale))
