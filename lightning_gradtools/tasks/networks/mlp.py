"""The multilayer perceptron."""

import math

from torch import Tensor, nn

from lightning_gradtools.arguments import ArgumentError, integer
from lightning_gradtools.tasks.networks.activation import make_activation
from lightning_gradtools.tasks.networks.initialization import initialize_
from lightning_gradtools.tasks.networks.normalization import make_norm


class DenseLayer(nn.Module):
    """activation(norm(linear(x))), (batch, in_features) to (batch, width)."""

    def __init__(self, in_features: int, width: int, activation: str, norm: str) -> None:
        super().__init__()
        # Batch norm subtracts the mean, and with it any bias: the gradient of one would be exactly zero.
        self.linear = nn.Linear(in_features, width, bias=norm != "batch")
        self.norm = make_norm(norm, width)
        self.activation = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        y: Tensor = self.activation(self.norm(self.linear(x)))
        return y


class MLP(nn.Module):
    """``depth`` hidden layers of ``width`` units and a linear output; a linear model when ``depth`` is 0.

    Parameters are named ``layers.<i>.linear``, ``layers.<i>.norm`` and ``output``.

    Args:
        in_features: size of a sample once flattened.
        out_features: number of outputs: classes, or 1 for a regression.
        width: units in each hidden layer.
        depth: number of hidden layers.
        activation: a name in `networks.activation`.
        norm: ``none``, ``batch`` or ``layer``, between each linear map and its activation.
        init: a name in `networks.initialization`.
        init_scale: multiplies every initial weight.

    Raises:
        ArgumentError: if a size is not a positive integer, or a name is not known.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        width: int = 128,
        depth: int = 2,
        activation: str = "relu",
        norm: str = "none",
        init: str = "he",
        init_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.in_features = integer("in_features", in_features, at_least=1)
        self.out_features = integer("out_features", out_features, at_least=1)
        integer("width", width, at_least=1)
        integer("depth", depth, at_least=0)
        widths = [in_features] + [width] * depth
        self.layers = nn.ModuleList(DenseLayer(n, width, activation, norm) for n in widths[:-1])
        self.output = nn.Linear(widths[-1], out_features)
        initialize_(self, init, init_scale)

    def check_input(self, shape: tuple[int, ...]) -> None:
        """Raise ArgumentError unless samples of ``shape`` hold ``in_features`` numbers."""
        if math.prod(shape) != self.in_features:
            raise ArgumentError(f"in_features={self.in_features}: the data has {math.prod(shape)} features")

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, ...), flattened to (batch, in_features), to (batch, out_features)."""
        x = x.flatten(1)
        for layer in self.layers:
            x = layer(x)
        y: Tensor = self.output(x)
        return y
