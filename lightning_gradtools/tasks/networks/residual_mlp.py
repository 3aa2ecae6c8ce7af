"""The pre-norm residual multilayer perceptron."""

import math

from torch import Tensor, nn

from lightning_gradtools.arguments import ArgumentError, integer
from lightning_gradtools.tasks.networks.activation import make_activation
from lightning_gradtools.tasks.networks.initialization import initialize_
from lightning_gradtools.tasks.networks.normalization import make_norm


class ResidualBlock(nn.Module):
    """x + contract(activation(expand(norm(x)))), all of shape (batch, width)."""

    def __init__(self, width: int, activation: str, norm: str) -> None:
        super().__init__()
        self.norm = make_norm(norm, width)
        self.expand = nn.Linear(width, width)
        self.activation = make_activation(activation)
        self.contract = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y: Tensor = x + self.contract(self.activation(self.expand(self.norm(x))))
        return y


class ResidualMLP(nn.Module):
    """``depth`` residual blocks that normalise their input, as the blocks of a pre-LN transformer do.

    The sum x + f(norm(x)) gives every block's gradient a path to the loss that no block multiplies (He et al.
    2016, arXiv:1603.05027), so that hundreds of layers train where a plain MLP's gradient vanishes.
    Parameters are named ``input``, ``blocks.<i>.norm``, ``blocks.<i>.expand``, ``blocks.<i>.contract``,
    ``norm`` and ``output``.

    Args:
        in_features: size of a sample once flattened.
        out_features: number of outputs: classes, or 1 for a regression.
        width: size of the residual stream and of the blocks' hidden layers.
        depth: number of blocks, of two linear layers each.
        activation: a name in `networks.activation`.
        norm: ``none``, ``batch`` or ``layer``.
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
        depth: int = 4,
        activation: str = "relu",
        norm: str = "layer",
        init: str = "default",
        init_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.in_features = integer("in_features", in_features, at_least=1)
        self.out_features = integer("out_features", out_features, at_least=1)
        integer("width", width, at_least=1)
        integer("depth", depth, at_least=0)
        self.input = nn.Linear(in_features, width)
        self.blocks = nn.ModuleList(ResidualBlock(width, activation, norm) for _ in range(depth))
        self.norm = make_norm(norm, width)
        self.output = nn.Linear(width, out_features)
        initialize_(self, init, init_scale)

    def check_input(self, shape: tuple[int, ...]) -> None:
        """Raise ArgumentError unless samples of ``shape`` hold ``in_features`` numbers."""
        if math.prod(shape) != self.in_features:
            raise ArgumentError(f"in_features={self.in_features}: the data has {math.prod(shape)} features")

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, ...), flattened to (batch, in_features), to (batch, out_features)."""
        x = self.input(x.flatten(1))
        for block in self.blocks:
            x = block(x)
        y: Tensor = self.output(self.norm(x))
        return y
