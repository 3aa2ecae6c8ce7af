import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_gradtools.activations import StepTap


def tapped(net, x, loss=lambda y: y.square().sum()):
    tap = StepTap(dict(net.named_modules()), signals=True)
    with tap:
        value = loss(net(x))
    value.backward()
    return tap


class Functional(nn.Module):
    def __init__(self, relu):
        super().__init__()
        self.first, self.second, self.relu = nn.Linear(4, 6), nn.Linear(6, 3), relu

    def forward(self, x):
        return self.second(self.relu(self.first(x)))


def test_gradients_at_outputs_are_those_of_autograd():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 2))
    x = torch.randn(7, 4)
    tap = tapped(net, x)
    assert list(tap.layers) == ["0", "2", "4"]
    h0 = net[0](x)
    h2 = net[2](h0.tanh())
    h4 = net[4](h2.clone().relu())
    expected = torch.autograd.grad(h4.square().sum(), [h0, h2, h4])
    for layer, gradient in zip(tap.layers.values(), expected, strict=True):
        assert sum(layer.gradients).item() == pytest.approx(gradient.norm().item(), rel=1e-5)
    signal = h0.double().var(0).mean().sqrt().item()
    assert tap.layers["0"].signals[0].item() == pytest.approx(signal, rel=1e-6)
    assert tap.samples == 7


@pytest.mark.parametrize(
    "relu",
    [F.relu, torch.relu, torch.Tensor.relu, lambda x: x.clamp(min=0), lambda x: F.relu(x, inplace=True), torch.relu_],
    ids=["F.relu", "torch.relu", "Tensor.relu", "clamp", "in place", "relu_"],
)
def test_a_relu_without_a_module_is_seen_and_named_by_the_layer_that_feeds_it(relu):
    net = Functional(relu)
    with torch.no_grad():
        net.first.bias.copy_(torch.tensor([-100.0, 100.0] * 3))
    (site,) = tapped(net, torch.randn(8, 4)).activations()
    assert (site.name, site.function) == ("first", "relu")
    assert site.fired.tolist() == [False, True] * 3


def test_a_module_used_once_has_its_own_name_and_a_shared_one_those_of_the_layers_before_it():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.act, self.own = nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU(), nn.GELU()

        def forward(self, x):
            return self.own(self.act(self.b(self.act(self.a(x)))))

    names = [site.name for site in tapped(Shared(), torch.randn(2, 4)).activations()]
    assert names == ["a", "b", "own"]


def test_units_of_a_convolution_are_its_channels():
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 36, 2))
    with torch.no_grad():
        net[1].bias.copy_(torch.tensor([-100.0, 0.0, 0.0]))
    (site,) = tapped(net, torch.randn(4, 1, 8, 8)).activations()
    assert site.fired.tolist() == [False, True, True]


def test_units_of_a_sequence_are_its_last_dimension():
    net = nn.Sequential(nn.Linear(3, 5), nn.ReLU())
    (site,) = tapped(net, torch.randn(2, 7, 3)).activations()
    assert len(site.fired) == 5


def test_saturated_tanh_sigmoid_and_softmax():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            return torch.softmax(1e4 * self.b(torch.sigmoid(torch.tanh(self.a(x)))), -1)

    net = Net()
    with torch.no_grad():
        net.a.bias.copy_(torch.tensor([50.0, 0.0]))
        net.a.weight.mul_(0.01)
    sites = {site.function: site for site in tapped(net, torch.randn(16, 2)).activations()}
    assert sites["tanh"].flat.tolist() == [1.0, 0.0]
    assert sites["sigmoid"].flat.tolist() == [0.0, 0.0]
    assert sites["softmax"].flat.item() > 0.9


@pytest.mark.parametrize("cell", [nn.RNN, nn.RNNCell])
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_the_states_of_a_recurrent_network_are_outputs_of_its_activation(cell, nonlinearity):
    net = nn.Sequential(cell(2, 3, nonlinearity=nonlinearity))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(0.01)
        (bias,) = [p for name, p in net[0].named_parameters() if name.startswith("bias_ih")]
        bias[0] = -50.0
    x = torch.randn(16, 2) if cell is nn.RNNCell else torch.randn(5, 16, 2)
    tap = tapped(net, x, lambda y: (y if isinstance(y, torch.Tensor) else y[0]).square().sum())
    (site,) = tap.activations()
    assert (site.name, site.function) == ("0", nonlinearity)
    if nonlinearity == "tanh":
        assert site.flat.tolist() == [1.0, 0.0, 0.0]
    else:
        assert site.fired[0].item() is False


class Attention(nn.Module):
    """One head whose scores are large for half of the sequences, and zero for the others."""

    def __init__(self, **settings):
        super().__init__()
        self.q, self.k, self.settings = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False), settings

    def forward(self, x):
        mask = self.settings.get("attn_mask")
        settings = self.settings if mask is None else {**self.settings, "attn_mask": mask[: x.shape[-2], : x.shape[-2]]}
        return F.scaled_dot_product_attention(self.q(x), self.k(x), x, **settings)


@pytest.mark.parametrize("length", [7, 200])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"is_causal": True},
        {"scale": 3.0},
        {"attn_mask": torch.ones(200, 200).tril().bool()},
        {"attn_mask": torch.zeros(200, 200).masked_fill(torch.ones(200, 200).triu(1).bool(), -torch.inf)},
    ],
    ids=["plain", "causal", "scale", "boolean mask", "additive mask"],
)
def test_fused_attention_is_followed_on_some_queries(length, settings):
    torch.manual_seed(0)
    net, x = Attention(**settings), torch.randn(3, length, 8)
    x[0] = 0.0
    net.q.weight.data *= 1e3
    (site,) = tapped(net, x).activations()
    scores = settings.get("scale", 8**-0.5) * net.q(x) @ net.k(x).mT
    if set(settings) - {"scale"}:
        scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
    hot = scores.softmax(-1).amax(-1) > 0.99
    several = torch.arange(length) > 0 if set(settings) - {"scale"} else torch.ones(length).bool()
    asked = torch.zeros(length).bool()
    asked[:: -(-length // 64)] = True
    assert site.function == "softmax"
    assert site.flat.item() == pytest.approx(hot[:, several & asked].double().mean().item(), abs=1e-6)
    assert 0.3 < site.flat.item() < 0.7  # two of three sequences


def test_rows_that_can_only_be_one_hot_are_not_saturated():
    class Causal(nn.Module):
        def __init__(self):
            super().__init__()
            self.scores = nn.Linear(3, 3)

        def forward(self, x):
            hidden = torch.ones(3, 3).triu(1).bool()
            return self.scores(x).masked_fill(hidden, -torch.inf).softmax(-1)

    net = Causal()
    nn.init.zeros_(net.scores.weight)
    nn.init.zeros_(net.scores.bias)
    (site,) = tapped(net, torch.randn(4, 3, 3)).activations()
    assert site.flat.item() == 0.0


def test_nothing_stays_behind():
    net = Functional(F.relu)
    tapped(net, torch.randn(2, 4))
    for module in net.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
