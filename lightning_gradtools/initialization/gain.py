"""The gain that makes up for what an activation takes away."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

# The normal density beyond is below 1e-22, and the step makes the rule exact to 1e-6 even across a kink.
_LIMIT, _POINTS = 10.0, 20_001


def activation_gain(activation: Callable[[Tensor], Tensor]) -> float:
    """Return ``1 / sqrt(E[activation(z)^2])`` for z from the standard normal distribution.

    A layer with weights of variance ``gain^2 / fan_in`` then has outputs of variance one, if what it reads is
    the activation of values of variance one. This is equation 10 of He et al. 2015, "Delving Deep into
    Rectifiers", with the expectation of any activation in the place of ReLU's 1/2: ReLU has gain sqrt(2),
    identity 1, tanh 1.593. (:func:`torch.nn.init.calculate_gain` gives tanh 5/3, with which variances settle
    above one.)

    Args:
        activation: an elementwise function.

    Returns:
        The gain; 1 where the activation of normal values is zero or not finite.
    """
    z = torch.linspace(-_LIMIT, _LIMIT, _POINTS, dtype=torch.float64)
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    with torch.no_grad():
        second_moment = torch.trapezoid(activation(z.clone()).to(torch.float64).square() * density, z).item()
    return 1 / math.sqrt(second_moment) if 0 < second_moment < math.inf else 1.0
