"""Recurrent networks."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from detection.networks.dense import dense


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


class Unrolled(nn.Module):
    """An Elman network written as a loop; the recurrent matrix is orthogonal times ``gain``."""

    def __init__(
        self, features: int, classes: int, gain: float, activation: Callable[[Tensor], Tensor] = torch.tanh
    ) -> None:
        super().__init__()
        self.read = nn.Linear(features, 32)
        self.recur = nn.Linear(32, 32, bias=False)
        self.output = nn.Linear(32, classes)
        nn.init.orthogonal_(self.recur.weight, gain)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 32)
        for now in x.unbind(dim=1):
            state = self.activation(self.read(now) + self.recur(state))
        y: Tensor = self.output(state)
        return y


class Stacked(nn.Module):
    """Recurrent layers on top of each other, and a linear output on the last state."""

    def __init__(
        self, cell: Callable[..., nn.Module], features: int, classes: int, layers: int, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.cells = nn.ModuleList(cell(24 if i else features, 24, batch_first=True) for i in range(layers))
        self.output = nn.Linear(24, classes)
        for parameter in self.cells.parameters():
            parameter.data.mul_(scale)

    def forward(self, x: Tensor) -> Tensor:
        for cell in self.cells:
            x = cell(x)[0]
        y: Tensor = self.output(x[:, -1])
        return y


class UnusedLayer(nn.Module):
    """Two recurrent layers side by side; by mistake the output reads the first one's state twice."""

    def __init__(self) -> None:
        super().__init__()
        self.forwards, self.backwards = (nn.GRU(8, 24, batch_first=True) for _ in range(2))
        self.output = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        forwards, _ = self.forwards(x)
        self.backwards(x.flip(1))
        y: Tensor = self.output(torch.cat([forwards[:, -1], forwards[:, -1]], dim=1))
        return y


class FirstStates(nn.Module):
    """Two recurrent layers, of which the output by mistake reads the first one's states."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.upper = nn.LSTM(8, 24, batch_first=True), nn.LSTM(24, 24, batch_first=True)
        self.output = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        lower, _ = self.lower(x)
        self.upper(lower)
        y: Tensor = self.output(lower[:, -1])
        return y


class Reservoir(nn.Module):
    """A random recurrent cell that is not trained, and a readout of all its states that is."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.RNN(8, 64, batch_first=True).requires_grad_(False)
        self.readout = dense([8 * 64, 24, 10], nn.Tanh)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.readout(self.cell(x)[0].flatten(1))
        return y
