"""A small convolutional network."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from lightning_gradtools.arguments import ArgumentError, integer
from lightning_gradtools.tasks.networks.activation import make_activation
from lightning_gradtools.tasks.networks.initialization import initialize_


class ConvolutionalLayer(nn.Module):
    """activation(norm(conv(x))) with a 3x3 kernel: (batch, in_channels, h, w) to (batch, channels, h, w)."""

    def __init__(self, in_channels: int, channels: int, activation: str) -> None:
        super().__init__()
        # No bias: batch norm would subtract it, and its gradient would be exactly zero.
        self.conv = nn.Conv2d(in_channels, channels, kernel_size=3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.activation = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        y: Tensor = self.activation(self.norm(self.conv(x)))
        return y


class CNN(nn.Module):
    """3x3 convolutions with batch norm, 2x2 max pooling between them, a linear output on the mean over space.

    Images of any size whose sides are at least 2 ** (layers - 1) fit. Parameters are named
    ``layers.<i>.conv``, ``layers.<i>.norm`` and ``output``.

    Args:
        in_channels: channels of an image.
        out_features: number of classes.
        channels: output channels of each convolution.
        activation: a name in `networks.activation`.
        init: a name in `networks.initialization`.
        init_scale: multiplies every initial weight; batch norm cancels it except at the output.

    Raises:
        ArgumentError: if a size is not a positive integer, or a name is not known.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_features: int = 10,
        channels: Sequence[int] = (16, 32, 64),
        activation: str = "relu",
        init: str = "he",
        init_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.in_channels = integer("in_channels", in_channels, at_least=1)
        self.out_features = integer("out_features", out_features, at_least=1)
        if not isinstance(channels, Sequence) or not channels:
            raise ArgumentError(f"channels={channels!r}: must list each layer's output channels")
        sizes = [in_channels, *(integer("channels", size, at_least=1) for size in channels)]
        self.layers = nn.ModuleList(ConvolutionalLayer(before, after, activation) for before, after in pairwise(sizes))
        self.pool = nn.MaxPool2d(2)
        self.output = nn.Linear(sizes[-1], out_features)
        initialize_(self, init, init_scale)

    def check_input(self, shape: tuple[int, ...]) -> None:
        """Raise ArgumentError unless ``shape`` is (in_channels, height, width) and survives the pooling."""
        if len(shape) != 3 or shape[0] != self.in_channels:
            raise ArgumentError(
                f"in_channels={self.in_channels}: the data's samples have shape {shape}, "
                "where a CNN needs (in_channels, height, width)"
            )
        side = 2 ** (len(self.layers) - 1)
        if min(shape[1:]) < side:
            raise ArgumentError(
                f"channels: {len(self.layers)} layers need images at least {side} pixels wide and high, "
                f"the data's are {shape[1]} x {shape[2]}"
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map images (batch, in_channels, height, width) to (batch, out_features)."""
        for index, layer in enumerate(self.layers):
            x = layer(self.pool(x) if index else x)
        y: Tensor = self.output(x.mean(dim=(2, 3)))
        return y
