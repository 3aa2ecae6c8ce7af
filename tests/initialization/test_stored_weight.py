import math
import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from lightning_gradtools.initialization import SCHEMES, initialize_, lsuv_, scale_, trace_signal_path

FAN_IN = 256


class Doubled(nn.Module):
    """A user's parametrization that holds everything."""

    def forward(self, x):
        return 2 * x

    def right_inverse(self, value):
        return value / 2


class Symmetric(nn.Module):
    """One that holds any scale, but not any weights."""

    def forward(self, x):
        return x.triu() + x.triu(1).T

    def right_inverse(self, value):
        return value.triu()


class NoWayBack(nn.Module):
    def forward(self, x):
        return torch.sinh(x)


def registered(kind, layer):
    parametrize.register_parametrization(layer, "weight", kind(), unsafe=True)
    return layer


def old_weight_norm(layer, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the older function is deprecated, and much in use
        return weight_norm(layer, **options)


SET = {
    "none": lambda layer: layer,
    "weight_norm": parametrizations.weight_norm,
    "weight_norm of all": partial(parametrizations.weight_norm, dim=None),
    "older weight_norm": old_weight_norm,
    "older weight_norm, by input": partial(old_weight_norm, dim=1),
    "a user's": partial(registered, Doubled),
}
LEFT = {
    "spectral_norm": (parametrizations.spectral_norm, "made by SpectralNorm"),
    "orthogonal": (parametrizations.orthogonal, "made by Orthogonal"),
    "rows that are orthogonal": (lambda _: parametrizations.orthogonal(nn.Linear(FAN_IN, 8)), "made by Orthogonal"),
    "orthogonal by Cayley": (
        partial(parametrizations.orthogonal, orthogonal_map="cayley", use_trivialization=False),
        "made by Orthogonal",
    ),
    "older spectral_norm": (spectral_norm, "made by spectral_norm"),
    "pruned": (partial(prune.random_unstructured, name="weight", amount=0.5), "made by pruning"),
    "a user's without an inverse": (partial(registered, NoWayBack), "made by NoWayBack"),
    "a user's that is symmetric": (partial(registered, Symmetric), "made by Symmetric"),
    "frozen": (lambda layer: layer.requires_grad_(False), "frozen"),
    "complex": (lambda _: nn.Linear(FAN_IN, FAN_IN, dtype=torch.complex64), "without real numbers"),
}


def network(wrap):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, FAN_IN), nn.ReLU(), wrap(nn.Linear(FAN_IN, FAN_IN)))


def used(layer, data):
    """The weights that a layer works with, from what it makes of unit vectors."""
    with torch.no_grad():
        zero = layer(torch.zeros_like(data[:1]))
        return (layer(torch.eye(FAN_IN, dtype=data.dtype)) - zero).T


def initialized(net, **options):
    path = trace_signal_path(net, lambda: net(torch.randn(8, 16)))
    return initialize_(net, path, generator=torch.Generator().manual_seed(1), **options)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("wrap", SET.values(), ids=SET)
def test_the_weights_that_a_layer_works_with_are_what_the_formula_says(wrap, scheme):
    net = network(wrap)
    done = initialized(net, scheme=scheme)
    assert [layer.name for layer in done.layers] == ["0", "2"]
    weight = used(net[2], torch.zeros(1, FAN_IN))
    gain = math.sqrt(2)
    if scheme in ("he", "xavier"):  # which agree where fan_in is fan_out
        assert weight.std().item() == pytest.approx(gain / math.sqrt(FAN_IN), rel=0.02)
        assert done.layers[1].std_after == pytest.approx(weight.std(correction=0).item(), rel=1e-5)
    else:
        torch.testing.assert_close(weight @ weight.T, gain**2 * torch.eye(FAN_IN), atol=1e-4, rtol=0)
    assert not net[2](torch.zeros(1, FAN_IN)).any(), "the bias"


@pytest.mark.parametrize("wrap", SET.values(), ids=SET)
def test_every_way_to_store_weights_gets_the_same_draw(wrap):
    plain, net = network(SET["none"]), network(wrap)
    initialized(plain)
    initialized(net)
    torch.testing.assert_close(used(net[2], torch.zeros(1, FAN_IN)), plain[2].weight.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(("wrap", "reason"), LEFT.values(), ids=LEFT)
def test_what_cannot_be_set_is_left_bit_by_bit_with_the_reason(wrap, reason, force):
    net = nn.Sequential(network(wrap)[2])
    before = {name: value.clone() for name, value in net.state_dict().items()}
    memory = {name: value.data_ptr() for name, value in net.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    data = torch.zeros(2, FAN_IN, dtype=next(net.parameters()).dtype)
    net.eval()  # in training the forward pass itself goes on with the power iteration
    path = trace_signal_path(net, lambda: net(data))
    net.train()
    done = initialize_(net, path, force=force, generator=torch.Generator().manual_seed(1))
    assert done.layers == ()
    assert done.left_alone == ("0",)
    assert done.reasons["0"].startswith(reason)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name
        assert value.data_ptr() == memory[name], name


@pytest.mark.parametrize("wrap", SET.values(), ids=SET)
def test_lsuv_scales_the_weights_that_a_layer_works_with(wrap):
    net, data = network(wrap), torch.randn(64, 16)
    initialized(net, scheme="lsuv")
    lsuv_(net, lambda: net(data), ["0", "2"])
    assert net(data).std(correction=0).item() == pytest.approx(1, rel=1e-4)
    assert scale_(net[2], 3.0)
    assert net(data).std(correction=0).item() == pytest.approx(3, rel=1e-4)


def test_a_pretrained_layer_with_weight_norm_is_pretrained():
    net = network(parametrizations.weight_norm)
    net[2].parametrizations.weight.original0.data.mul_(2)
    assert initialized(net).reasons == {"2": "not torch's default"}
    assert initialized(net, force=True).left_alone == ()


def test_a_parametrized_bias_is_zero_too_or_the_layer_is_left_as_it_was():
    class Positive(nn.Module):
        def forward(self, x):
            return x.exp()

        def right_inverse(self, value):
            return value.log()

    for kind, reached in ((Doubled, True), (Positive, False)):
        net = network(lambda layer: layer)
        parametrize.register_parametrization(net[2], "bias", kind(), unsafe=True)
        nn.init.uniform_(net[2].parametrizations.bias.original, -3.5, -3)  # within torch's default as exp
        before = {name: value.clone() for name, value in net[2].state_dict().items()}
        done = initialized(net, force=True)
        if reached:
            assert done.left_alone == ()
            assert not net[2].bias.any()
        else:
            assert done.reasons["2"].startswith("made by Positive")
            assert all(torch.equal(value, before[name]) for name, value in net[2].state_dict().items())


def test_layers_that_have_no_weights_yet_or_were_not_called_are_named():
    class Partly(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused, self.lazy = nn.Linear(8, 8), nn.Linear(8, 8), nn.LazyLinear(4)
            self.as_function = nn.Linear(8, 8)
            self.attention = nn.MultiheadAttention(8, 2)

        def forward(self, x):
            return self.attention(self.used(input=x), x, x)[0] @ self.as_function.weight

    net = Partly()
    path = trace_signal_path(net, lambda: net(torch.randn(2, 8)))
    done = initialize_(net, path)
    assert [layer.name for layer in done.layers] == ["used"]
    uncalled = "not called in the forward pass that was looked at"
    lazy = "lazy and without weights until they have run: run the module once before fit"
    assert done.reasons == {
        "unused": uncalled,
        "lazy": lazy,
        "as_function": uncalled,
        "attention.out_proj": uncalled,
    }


@pytest.mark.parametrize("embedding_std", [0.02, None])
def test_tied_weights_are_done_once_and_by_the_embeddings_rule(embedding_std):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.embedding = nn.Linear(16, 50, bias=False), nn.Embedding(50, 16)
            self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)
            self.head.weight, self.b.weight = self.embedding.weight, self.a.weight

        def forward(self, tokens):
            return self.head(self.b(self.a(self.embedding(tokens))))

    net = Tied()
    before = net.embedding.weight.clone()
    path = trace_signal_path(net, lambda: net(torch.arange(4)))
    layers = initialize_(net, path, embedding_std=embedding_std).layers
    done = {layer.name: (layer.scheme, layer.tied) for layer in layers}
    assert done.pop("a") == ("he", ("b",))
    if embedding_std is None:
        assert done == {}
        assert torch.equal(net.embedding.weight, before)
    else:
        assert done == {"embedding": ("embedding", ("head",))}
        assert net.head.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not net.b.bias.any()
