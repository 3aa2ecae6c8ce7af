from functools import partial

import pytest
import torch
from torch import nn

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.initialization import (
    SCHEMES,
    initialize_,
    is_torch_default,
    lsuv_,
    trace_signal_path,
)

DEPTH, WIDTH, BATCH = 30, 256, 64
NETWORKS = 8  # over which gains are averaged: one network's scatter by 1 / sqrt(width)


def stack(activation: type[nn.Module], seed: int = 0) -> tuple[nn.Sequential, torch.Tensor]:
    """Thirty blocks of Linear and activation, and a batch of independent standard normal inputs."""
    torch.manual_seed(seed)
    blocks = [layer for _ in range(DEPTH) for layer in (nn.Linear(WIDTH, WIDTH), activation())]
    return nn.Sequential(*blocks), torch.randn(BATCH, WIDTH)


def gains(net: nn.Sequential, data: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logarithms of how much the rms of pre-activations, and of their gradients, grows a block."""
    values = []
    for layer in net:
        data = layer(data)
        if isinstance(layer, nn.Linear):
            data.retain_grad()
            values.append(data)
    (data * torch.randn_like(data)).sum().backward()
    forward = torch.stack([value.detach().square().mean().log() / 2 for value in values])
    backward = torch.stack([value.grad.square().mean().log() / 2 for value in values])
    return forward.diff(), -backward.diff()


def mean_gains(activation: type[nn.Module], scheme: str | None) -> list[torch.Tensor]:
    """The geometric mean over networks of the forward and of the backward gain, each (DEPTH - 1,)."""
    logarithms = []
    for seed in range(NETWORKS):
        net, data = stack(activation, seed)
        if scheme is not None:
            done = initialize_(net, trace_signal_path(net, partial(net, data)), scheme=scheme)
            assert len(done.layers) == DEPTH
            if scheme == "lsuv":
                lsuv_(net, partial(net, data), [layer.name for layer in done.layers])
        logarithms.append(gains(net, data))
    return [torch.stack(each).mean(0).exp() for each in zip(*logarithms, strict=True)]


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_signals_and_gradients_keep_their_scale_in_every_one_of_thirty_layers(activation, scheme):
    for gain in mean_gains(activation, scheme):
        assert gain.min() > 0.9
        assert gain.max() < 1.1


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_with_torchs_default_gradients_vanish(activation):
    _, backward = mean_gains(activation, None)
    assert backward.max() < 0.6
    assert backward.prod() < 1e-6


def test_stds_are_the_formulas():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(400, 300), nn.ReLU(), nn.Linear(300, 500))
    path = trace_signal_path(net, lambda: net(torch.randn(2, 400)))
    he = initialize_(net, path, scheme="he").layers
    assert [layer.std_after for layer in he] == pytest.approx([400**-0.5, (2 / 300) ** 0.5], rel=0.02)
    xavier = initialize_(net, path, scheme="xavier", force=True).layers
    expected = [(2 / 700) ** 0.5, (2 * 2 / 800) ** 0.5]
    assert [layer.std_after for layer in xavier] == pytest.approx(expected, rel=0.02)
    assert [(layer.reads, layer.std_before) for layer in xavier] == [(layer.reads, layer.std_after) for layer in he]
    initialize_(net, path, scheme="orthogonal", force=True)
    torch.testing.assert_close(net[0].weight @ net[0].weight.T, torch.eye(300), atol=1e-5, rtol=0)
    assert not net[0].bias.any()


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 16, 3, groups=4, padding=1),
        nn.Conv1d(8, 16, 5, padding=2),
        nn.ConvTranspose2d(16, 8, 4, stride=2, padding=1),
        nn.ConvTranspose2d(8, 16, 3, padding=1, groups=2),
    ],
)
def test_convolutions_of_every_kind_keep_the_variance(layer):
    torch.manual_seed(0)
    sizes = (16,) * (layer.weight.dim() - 2)
    net, data = nn.Sequential(layer), torch.randn(32, layer.in_channels, *sizes)
    initialize_(net, trace_signal_path(net, lambda: net(data)), scheme="he")
    inner = layer(data)[(..., *(slice(3, -3),) * len(sizes))]  # away from the padding
    assert inner.square().mean().item() == pytest.approx(1, rel=0.15)


def test_lsuv_gives_every_output_variance_one_in_one_pass_whatever_the_weights_were():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16, bias=False), nn.Softplus(), nn.Linear(16, 8, bias=False), nn.ReLU())
    for parameter in net.parameters():
        parameter.data.mul_(torch.rand(()) * 10)
    data, calls = torch.randn(64, 8), []
    factors = lsuv_(net, lambda: calls.append(net(data)), ["0", "2"])
    assert len(calls) == 1
    assert set(factors) == {"0", "2"}
    first = net[0](data)
    second = net[2](net[1](first))
    assert [first.std(correction=0).item(), second.std(correction=0).item()] == pytest.approx([1, 1], rel=1e-5)


class Language(nn.Module):
    """Tied embeddings and two residual blocks."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(16, 50, bias=False)
        self.embedding = nn.Embedding(50, 16, padding_idx=0)
        self.head.weight = self.embedding.weight
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.norm = nn.LayerNorm(16)

    def forward(self, tokens):
        x = self.embedding(tokens)
        return self.head(x + self.down(torch.relu(self.up(self.norm(x)))))


def test_embeddings_are_small_tied_weights_are_drawn_once_and_blocks_start_as_the_identity():
    torch.manual_seed(0)
    net = Language()
    path = trace_signal_path(net, lambda: net(torch.arange(1, 5)[None]))
    done = initialize_(net, path, zero_residual=True)
    assert {layer.name: layer.scheme for layer in done.layers} == {
        "embedding": "embedding",
        "up": "he",
        "down": "zero",
    }
    assert net.embedding.weight[1:].std().item() == pytest.approx(0.02, rel=0.1)
    assert not net.embedding.weight[0].any()
    tokens = torch.arange(1, 5)[None]
    torch.testing.assert_close(net(tokens), net.head(net.embedding(tokens)), rtol=0, atol=0)


DEFAULTS = [
    lambda: nn.Linear(64, 32),
    lambda: nn.Linear(3, 1),
    lambda: nn.Conv2d(3, 8, 3),
    lambda: nn.ConvTranspose2d(8, 4, 3),
    lambda: nn.Embedding(100, 16),
    lambda: nn.Embedding(10, 4, padding_idx=2),
    lambda: nn.LayerNorm(8),
    lambda: nn.BatchNorm2d(8),
    lambda: nn.Linear(64, 32).to(torch.bfloat16),
]


@pytest.mark.parametrize("make", DEFAULTS)
def test_default_weights_are_known_for_any_seed(make):
    for seed in range(200):
        torch.manual_seed(seed)
        assert is_torch_default(make()), seed


@pytest.mark.parametrize("make", [make for make in DEFAULTS if make().weight.numel() > 40 or hasattr(make(), "eps")])
def test_weights_that_moved_are_known(make):
    torch.manual_seed(0)
    layer = make()
    with torch.no_grad():
        layer.weight.mul_(1.3)
    assert not is_torch_default(layer)


def test_pretrained_layers_are_left_alone_unless_forced():
    torch.manual_seed(0)
    backbone, head = nn.Linear(32, 32), nn.Linear(32, 4)
    nn.init.normal_(backbone.weight)
    net = nn.Sequential(backbone, nn.ReLU(), head)
    before = backbone.weight.clone()
    path = trace_signal_path(net, lambda: net(torch.randn(2, 32)))
    done = initialize_(net, path)
    assert ([layer.name for layer in done.layers], done.left_alone) == (["2"], ("0",))
    assert torch.equal(backbone.weight, before)
    assert initialize_(net, path, force=True).left_alone == ()
    assert not torch.equal(backbone.weight, before)


def test_bad_arguments_are_named():
    net = nn.Sequential(nn.Linear(2, 2))
    path = trace_signal_path(net, lambda: net(torch.randn(2, 2)))
    with pytest.raises(ArgumentError, match=r"^scheme='hee': .*did you mean 'he'"):
        initialize_(net, path, scheme="hee")
    with pytest.raises(ArgumentError, match=r"^embedding_std=0"):
        initialize_(net, path, embedding_std=0)
    with pytest.raises(ArgumentError, match=r"^layers='1': must be one of"):
        lsuv_(net, lambda: None, ["1"])
