"""Mixtures of experts as people write them, and what only looks like one."""

import pytest
import torch
from torch import nn

from lightning_gradtools.activations import StepTap

EXPERTS, ROWS = 4, 12
LOGITS = torch.full((ROWS, EXPERTS), -5.0)
LOGITS[:6, 2] = LOGITS[6:9, 0] = LOGITS[9:, 1] = 5.0  # of 12 rows: 3, 3, 6 and none


class Router(nn.Module):
    """Gives the logits above, whatever its input."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.weight * LOGITS


class Mixture(nn.Module):
    def __init__(self, route, container=nn.ModuleList):
        super().__init__()
        experts = [nn.Sequential(nn.Linear(3, 3), nn.ReLU()) for _ in range(EXPERTS)]
        named = {f"expert_{i}": each for i, each in enumerate(experts)}
        self.gate = Router()
        self.experts = nn.ModuleList(experts) if container is nn.ModuleList else nn.ModuleDict(named)
        self.route = route

    def each(self):
        return self.experts if isinstance(self.experts, nn.ModuleList) else self.experts.values()

    def forward(self, x):
        return self.route(self, self.gate(x), x)


def dispatched(layer, chosen, weights, x):
    out = torch.zeros_like(x)
    for i, expert in enumerate(layer.each()):
        rows = (chosen == i).any(-1).nonzero()[:, 0]
        if len(rows):
            out = out.index_add(0, rows, weights[rows, :1] * expert(x[rows]))
    return out


def top_1(layer, logits, x):
    weights, chosen = logits.softmax(-1).topk(1)
    return dispatched(layer, chosen, weights, x)


def top_of_logits(layer, logits, x):
    weights, chosen = torch.topk(logits, k=1, dim=1)
    return dispatched(layer, chosen, weights.sigmoid(), x)


def switch(layer, logits, x):
    weights, chosen = logits.softmax(dim=-1).max(dim=-1, keepdim=True)
    return dispatched(layer, chosen, weights, x)


def argmax(layer, logits, x):
    return dispatched(layer, logits.argmax(-1, keepdim=True), logits, x)


def without_top_k(layer, logits, x):
    """Chooses by comparing, so that only the rows given to each expert tell."""
    probabilities = logits.softmax(-1)
    return dispatched(layer, (probabilities > 0.5).nonzero()[:, 1:], probabilities, x)


def padded(layer, logits, x):
    """Gives each expert as many rows, whatever was chosen."""
    weights, _ = logits.softmax(-1).topk(1)
    return sum(expert(x[:5]).sum() for expert in layer.each()) * weights.sum()


def tapped(net, x):
    tap = StepTap(dict(net.named_modules()))
    with tap:
        net(x)
    return tap


@pytest.mark.parametrize("route", [top_1, top_of_logits, switch, argmax, without_top_k, padded])
@pytest.mark.parametrize("container", [nn.ModuleList, nn.ModuleDict])
def test_the_load_is_the_share_that_each_expert_is_chosen_for(route, container):
    net = nn.Sequential(nn.Linear(3, 3), Mixture(route, container))
    (layer,) = tapped(net, torch.randn(ROWS, 3)).routed
    assert (layer.name, layer.members) == ("1", "1.experts")
    assert layer.load().tolist() == [0.25, 0.25, 0.5, 0.0]


def test_where_all_experts_see_all_rows_the_load_is_the_mean_probability():
    def soft(layer, logits, x):
        weights = logits.softmax(-1)
        return sum(weights[:, i : i + 1] * expert(x) for i, expert in enumerate(layer.experts))

    (layer,) = tapped(nn.Sequential(Mixture(soft)), torch.randn(ROWS, 3)).routed
    torch.testing.assert_close(layer.load(), LOGITS.softmax(-1).mean(0))


class Slices(nn.Module):
    """The weights of all experts in one tensor."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(EXPERTS, 3, 3))

    def forward(self, x, chosen):
        return torch.bmm(x.unsqueeze(1), self.weight[chosen]).squeeze(1)


@pytest.mark.parametrize("apart", [True, False])
def test_experts_may_be_slices_of_one_weight(apart):
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = Router()
            self.experts = Slices() if apart else None
            self.weight = None if apart else nn.Parameter(torch.randn(EXPERTS, 3, 3))

        def forward(self, x):
            chosen = self.gate(x).topk(1).indices[:, 0]
            return self.experts(x, chosen) if apart else Slices.forward(self, x, chosen)

    net = nn.Sequential(Layer())
    (layer,) = tapped(net, torch.randn(ROWS, 3)).routed
    assert (layer.name, layer.load().tolist()) == ("0", [0.25, 0.25, 0.5, 0.0])


def test_several_calls_of_a_layer_are_taken_together():
    net = nn.Sequential(Mixture(top_1))
    tap = StepTap(dict(net.named_modules()))
    with tap:
        for _ in range(3):
            net(torch.randn(ROWS, 3))
    (layer,) = tap.routed
    assert layer.chosen.tolist() == [9, 9, 18, 0]


class Blocks(nn.Module):
    """As many blocks as a choice has, none of which is chosen by it."""

    def __init__(self, choose):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.blocks = nn.ModuleList(nn.Linear(3, 3) for _ in range(EXPERTS))
        self.output = nn.Linear(3, EXPERTS)
        self.choose = choose

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.choose(self.output(x))


@pytest.mark.parametrize("choose", [lambda x: x, lambda x: x.softmax(-1), lambda x: x.topk(1)[0]])
def test_a_choice_after_the_blocks_is_none_among_them(choose):
    assert tapped(Blocks(choose), torch.randn(ROWS, 3)).routed == []


def test_blocks_that_hold_mixtures_are_not_experts_themselves():
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(3, 3)
            self.blocks = nn.ModuleList(Mixture(top_1) for _ in range(EXPERTS))

        def forward(self, x):
            x = self.first(x)
            for block in self.blocks:
                x = block(x)
            return x

    assert [layer.name for layer in tapped(Deep(), torch.randn(ROWS, 3)).routed] == [f"blocks.{i}" for i in range(4)]


def test_members_of_different_shapes_are_no_experts():
    net = nn.Sequential(Mixture(top_1))
    net[0].experts[1] = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    assert tapped(net, torch.randn(ROWS, 3)).routed == []


def test_weights_whose_sizes_are_not_known_yet_are_no_experts():
    class Lazy(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(3, 3)
            self.layers = nn.ModuleList(nn.LazyLinear(3) for _ in range(EXPERTS))
            self.weight = nn.UninitializedParameter()

        def forward(self, x):
            for layer in self.layers:
                x = layer(self.first(x))
            return x

    assert tapped(nn.Sequential(Lazy()), torch.randn(ROWS, 3)).routed == []


def test_activations_of_experts_are_not_watched_and_others_are():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), Mixture(top_1))
    assert [site.name for site in tapped(net, torch.randn(ROWS, 3)).activations() if site.function == "relu"] == ["1"]
