r"""Initialisation of linear and convolutional layers by name.

============  ==========================================================  ==================================
name          weights                                                     source
============  ==========================================================  ==================================
`default`     PyTorch's: U(-b, b), b = 1 / sqrt(fan_in); biases likewise  `torch.nn.Linear`
`he`          N(0, 2 / fan_in); biases 0                                  He et al. 2015, arXiv:1502.01852
`xavier`      N(0, 2 / (fan_in + fan_out)); biases 0                      Glorot & Bengio 2010, AISTATS
`orthogonal`  a random matrix with orthonormal rows or columns; biases 0  Saxe et al. 2014, arXiv:1312.6120
============  ==========================================================  ==================================
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lightning_gradtools.arguments import number, one_of


def _he_normal_(weight: Tensor) -> Tensor:
    return nn.init.kaiming_normal_(weight, nonlinearity="relu")


INITIALIZERS: dict[str, Callable[[Tensor], Tensor] | None] = {
    "default": None,
    "he": _he_normal_,
    "xavier": nn.init.xavier_normal_,
    "orthogonal": nn.init.orthogonal_,
}


@torch.no_grad()
def initialize_(network: nn.Module, name: str, scale: float = 1.0) -> None:
    """Initialise every `Linear` and `Conv2d` of ``network`` in place.

    Args:
        network: whose layers are initialised; normalisation layers keep PyTorch's ones and zeros.
        name: a row of the table above.
        scale: the weights, not the biases, are multiplied by this. 1 is the named initialisation itself.

    Raises:
        ArgumentError: if there is no such name, or the scale is negative or not finite.
    """
    initializer = INITIALIZERS[one_of("init", name, INITIALIZERS)]
    scale = number("init_scale", scale, at_least=0)
    for layer in network.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            if initializer is not None:
                initializer(layer.weight)
                if layer.bias is not None:
                    layer.bias.zero_()
            layer.weight.mul_(scale)
