import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_gradtools.initialization import trace_signal_path

ROOT2 = pytest.approx(math.sqrt(2))


def trace(module, *shape):
    return trace_signal_path(module, lambda: module(torch.randn(*shape)))


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x):
        x = F.dropout(F.relu(self.a(x)), 0.5, self.training)
        x = F.leaky_relu(self.b(x), negative_slope=0.2).reshape(-1, 2, 4).flatten(0, 1)
        x = torch.tanh_(self.c(x))
        return self.d(x)


def test_activations_that_are_functions_are_seen_through_dropout_and_reshapes():
    assert trace(Functional(), 2, 4).reads == {
        "a": ("none", 1.0),
        "b": ("relu", ROOT2),
        "c": ("leaky_relu", pytest.approx(math.sqrt(2 / 1.04))),
        "d": ("tanh", pytest.approx(1.5925, abs=1e-4)),
    }


def test_activations_that_are_modules_are_seen_and_normalisation_ends_them():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3),
        nn.PReLU(4, init=0.0),
        nn.Flatten(),
        nn.Linear(16, 4),
        nn.ReLU(),
        nn.LayerNorm(4),
        nn.Linear(4, 2),
    )
    reads = trace(net, 2, 3, 10, 10).reads
    assert reads == {"0": ("none", 1.0), "4": ("relu", ROOT2), "7": ("prelu", ROOT2), "10": ("none", 1.0)}


class Residual(nn.Module):
    """Pre-normalisation, an MLP branch, an optional projection on the shortcut."""

    def __init__(self, width, out=None, norm_last=False):
        super().__init__()
        out = out or width
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 8), nn.Linear(8, out)
        self.last = nn.LayerNorm(out) if norm_last else nn.Identity()
        self.shortcut = nn.Linear(width, out) if out != width else nn.Identity()

    def forward(self, x):
        branch = self.last(self.down(F.gelu(self.up(self.norm(x)))))
        branch += self.shortcut(x)
        return branch


def test_residual_branches_end_in_their_last_layer_whichever_way_they_are_added():
    net = nn.Sequential(nn.Linear(4, 4), Residual(4), Residual(4, norm_last=True), Residual(4, out=6))
    path = trace(net, 2, 4)
    assert path.residual_ends == ("1.down", "2.last", "3.down")
    assert path.reads["1.up"] == ("none", 1.0)
    assert path.reads["1.down"] == ("gelu", pytest.approx(1.5335, abs=1e-4))


def test_a_residual_block_on_the_data_itself():
    assert trace(Residual(4), 2, 4).residual_ends == ("down",)


class Sums(nn.Module):
    """Sums that are no residual branches: of two inputs, of equal paths, with a parameter."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.position = nn.Parameter(torch.zeros(2, 4))

    def forward(self, x):
        both = self.a(x) + self.b(x)
        return self.c(both) + self.position + torch.ones(2, 4)


def test_other_sums_are_no_residual_branches():
    path = trace(Sums(), 2, 4)
    assert path.residual_ends == ()
    assert path.reads["c"] == ("none", 1.0)


def test_hooks_are_gone_afterwards():
    net = Functional()
    trace(net, 2, 4)
    with pytest.raises(RuntimeError):
        trace_signal_path(net, lambda: net(torch.randn(2, 5)))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
