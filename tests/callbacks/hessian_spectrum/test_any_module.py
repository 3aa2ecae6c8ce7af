"""Whatever the module is made of: the spectrum of the dense Hessian, and training as without it."""

import pytest
import torch
import torch.nn.functional as F
from helpers.quadratics import OnceSine, dense_hessian
from helpers.runs import Regression, batches, fit
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from lightning_gradtools.callbacks import HessianSpectrum


def smooth():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))


class Mixed(nn.Module):
    """float64 beside float32, a scalar, an empty parameter, an unused one, nested lists, integer and bool buffers."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 3)
        self.last = nn.Linear(3, 1).double()
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.empty = nn.Parameter(torch.zeros(0, 3))
        self.unused = nn.Parameter(torch.ones(2))
        self.lists = nn.ModuleList([nn.ParameterList([torch.ones(3)]), nn.ParameterList([torch.zeros(3)])])
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("mask", torch.tensor([True, False, True]))

    def forward(self, x):
        hidden = self.first(x) * self.mask * self.lists[0][0] + self.lists[1][0]
        return (self.scale * self.last(hidden.tanh().double())).float()


class OneWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return self.weight * x.sum(1, keepdim=True)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
        self.last.weight = self.first.weight

    def forward(self, x):
        return self.last(self.first(x).tanh()).sum(1, keepdim=True)


class Reentrant(nn.Module):
    """Checkpointed by the way that has no second derivative."""

    def __init__(self):
        super().__init__()
        self.first, self.block, self.last = nn.Linear(4, 4), smooth()[:2], nn.Linear(6, 1)

    def forward(self, x):
        return self.last(checkpoint(self.block, self.first(x), use_reentrant=True))

    def plain(self, x):
        return self.last(self.block(self.first(x)))


class OnceDifferentiable(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = smooth()

    def forward(self, x):
        return self.net[2](OnceSine.apply(self.net[0](x)))

    def plain(self, x):
        return self.net[2](self.net[0](x).sin())


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = smooth()

    def forward(self, x):
        return self.net[2](self.net[0](x).mul_(2).add_(1).tanh_())


class Attention(nn.Module):
    """A whole encoder layer of torch's, which has another way through in evaluation mode."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, activation="gelu", batch_first=True)
        self.encoder, self.last = nn.TransformerEncoder(layer, 1), nn.Linear(4, 1)

    def forward(self, x):
        return self.last(self.encoder(torch.stack([x, x.flip(1)], 1)).mean(1))


class InnerDerivative(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = smooth()

    def forward(self, x):
        slope = torch.func.vmap(torch.func.grad(lambda one: self.net(one).sum()))(x)
        return self.net(x) + slope.square().sum(1, keepdim=True)


KINDS = [Mixed, OneWeight, Tied, Reentrant, OnceDifferentiable, InPlace, Attention, InnerDerivative]


def train(net, *callbacks):
    torch.manual_seed(0)
    module = Regression(net, torch.optim.SGD)
    fit(module, *callbacks, data=batches(2), limit_val_batches=0)
    return module


def same(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def the_largest(net):
    """Return the largest eigenvalue of the loss of the first batch, by magnitude; what is not used adds zeros."""
    x, y = batches()[0]
    forward = getattr(net, "plain", net)
    used = [parameter for name, parameter in net.named_parameters() if name not in ("empty", "unused")]
    with sdpa_kernel(SDPBackend.MATH):
        values = torch.linalg.eigvalsh(dense_hessian(lambda: F.mse_loss(forward(x), y), used))
    return float(values[values.abs().argmax()])


@pytest.mark.parametrize("kind", KINDS)
def test_the_spectrum_is_the_dense_one_and_training_is_the_same(kind):
    callback = HessianSpectrum(every_n_steps=2, top_k=1)
    module = train(kind, callback)
    assert callback.failure is None
    ((_, values),) = callback.history
    assert values["curvature/eigenvalue_0"] == pytest.approx(the_largest(module.net), rel=5e-3)
    assert same(module, train(kind))


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 1, dtype=torch.complex64))

    def forward(self, x):
        return (x.to(torch.complex64) @ self.weight).abs()


def test_complex_weights_are_named_as_what_cannot_be_and_training_goes_on():
    with pytest.warns(UserWarning, match=r"dtype torch\.complex64: must be real floating-point"):
        module = train(Complex, HessianSpectrum(every_n_steps=1))
    assert same(module, train(Complex))
