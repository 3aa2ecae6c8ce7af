"""What a loss is given, and by whom: closed forms, and where the eye must not be led astray."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from lightning_gradtools.activations import StepTap
from lightning_gradtools.activations.contract_tap import ContractTap, fingerprint


def tapped(net, x, loss):
    modules = dict(net.named_modules())
    contracts = ContractTap(modules)
    with StepTap(modules, contracts=contracts):
        loss(net(x)).backward()
    return contracts


def call_of(*last, loss, x=None, outputs=1):
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, outputs), *last)
    (call,) = tapped(net, torch.randn(16, 4) if x is None else x, loss).calls.values()
    return call


@pytest.mark.parametrize(
    ("between", "function"),
    [
        (lambda p: p, F.mse_loss),
        (lambda p: p.squeeze(1)[:, None], F.l1_loss),
        (lambda p: p.view(4, 4).transpose(0, 1).reshape(16, 1), F.huber_loss),
        (lambda p: p.double().clone(), F.smooth_l1_loss),
        (lambda p: p.clamp(1e-6, 1 - 1e-6).clamp(max=0.9), F.mse_loss),
        (lambda p: p[torch.arange(16)].contiguous().flatten().unsqueeze(1), F.binary_cross_entropy),
    ],
)
def test_moving_numbers_about_leaves_whose_they_are(between, function):
    call = call_of(nn.Sigmoid(), loss=lambda p: function(between(p), torch.rand(16, 1).to(between(p).dtype)))
    assert (call.activations, call.layer, call.function) == (("sigmoid",), "2", function.__name__)


@pytest.mark.parametrize("between", [lambda p: 2 * p, lambda p: 1 - p, lambda p: p.log(), lambda p: p + p.mean()])
def test_other_numbers_are_nobodys(between):
    assert call_of(nn.Sigmoid(), loss=lambda p: F.mse_loss(between(p), torch.rand(16, 1))).activations == ()


def test_several_functions_are_named_the_last_one_first_up_to_the_layer():
    call = call_of(nn.ReLU(inplace=True), nn.Sigmoid(), loss=lambda p: F.mse_loss(p, torch.rand(16, 1)))
    assert call.activations == ("sigmoid", "relu")


def test_each_head_has_its_own_layer_whichever_ran_last():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(4, 2), nn.Linear(4, 3)

        def forward(self, x):
            return self.left(x), self.right(x).softmax(1)

    seen = tapped(
        Heads(),
        torch.randn(6, 4),
        lambda z: F.cross_entropy(z[0], torch.zeros(6).long()) + F.mse_loss(z[1], torch.zeros(6, 3)),
    )
    assert {(call.layer, call.activations, call.outputs) for call in seen.calls.values()} == {
        ("left", (), 2),
        ("right", ("softmax",), 3),
    }


def test_a_checkpointed_layer_and_a_frozen_one_are_named_by_what_ran_last():
    frozen = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1).requires_grad_(False), nn.Tanh())
    (call,) = tapped(frozen, torch.randn(6, 4), lambda p: F.mse_loss(p, torch.zeros(6, 1))).calls.values()
    assert (call.layer, call.activations) == ("0", ("tanh",))
    net = nn.Sequential(nn.Linear(4, 1), nn.Sigmoid())
    modules = dict(net.named_modules())
    seen = ContractTap(modules)
    with StepTap(modules, contracts=seen):
        F.mse_loss(checkpoint(net, torch.randn(6, 4, requires_grad=True), use_reentrant=True), torch.zeros(6, 1))
    (call,) = seen.calls.values()
    assert call.layer == "0"


def test_measures_of_probabilities_and_of_log_probabilities():
    z = torch.randn(16, 5)
    given = {"logits": z, "softmax": z.softmax(1), "log_softmax": z.log_softmax(1), "half": z.log_softmax(1) - 0.7}
    for name, scores in given.items():
        scores = nn.Parameter(scores)
        modules = dict(nn.Linear(1, 1).named_modules())
        seen = ContractTap(modules)
        with StepTap(modules, contracts=seen):
            F.nll_loss(scores, torch.zeros(16).long())
        ((call),) = seen.calls.values()
        means = {key: value.item() for key, value in call.means().items()}
        sums = scores.detach().exp().sum(1)
        assert means["simplex"] == (name == "softmax"), name
        assert means["heavy"] == (sums.log() > 0.1).float().mean().item()
        assert means["light"] == (sums.log() < -0.1).float().mean().item()
        assert (means["heavy"], means["light"]) == (0, 0) or name != "log_softmax"


def test_measures_of_targets_are_those_of_a_closed_form():
    target = torch.tensor([[0.0, 1.0], [1.0, 0.0], [4.0, 0.5], [-1.0, 0.5]])
    call = call_of(nn.ReLU(), loss=lambda p: F.mse_loss(p, target), x=torch.randn(4, 4), outputs=2)
    means = {name: value.item() for name, value in call.means().items()}
    columns = [[0, 1, 4, -1], [1, 0, 0.5, 0.5]]
    variances = [sum((v - sum(c) / 4) ** 2 for v in c) / 4 for c in columns]
    everything = [v for c in columns for v in c]
    variance = sum((v - sum(everything) / 8) ** 2 for v in everything) / 8
    expected = {
        "samples": 4,
        "mean": sum(everything) / 8,
        "square": sum(v * v for v in everything) / 8,
        "spread": math.sqrt(sum(variances) / 2),
        "lowest": -1,
        "highest": 4,
        "whole": 6 / 8,
        "bits": 4 / 8,
        "one_hot": 2 / 4,
        "beyond": 2 / 8,
        "outside": 1 / 8,
        "unreachable": 1 / 8 / variance,
        "undistributed": 2 / 4,
    }
    assert means == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("last", "outside"),
    [
        (nn.Sigmoid(), 3 / 4),
        (nn.Tanh(), 2 / 4),
        (nn.ReLU(), 2 / 4),
        (nn.ReLU6(), 3 / 4),
        (nn.Hardtanh(), 2 / 4),
        (nn.Hardtanh(-9, 9), None),
        (nn.ELU(), None),
    ],
)
def test_a_target_may_lie_beyond_either_bound(last, outside):
    target = torch.tensor([[-2.0], [-0.5], [0.5], [7.0]])
    means = call_of(last, loss=lambda p: F.mse_loss(p, target), x=torch.randn(4, 4)).means()
    assert (means["outside"].item() if "outside" in means else None) == outside


@pytest.mark.parametrize(
    ("last", "outputs", "constant"),
    [
        (nn.Softmax(1), 1, True),
        (nn.LogSoftmax(-1), 1, True),
        (nn.Softmax(0), 1, False),
        (nn.Softmax(1), 2, False),
        (nn.Sigmoid(), 1, False),
    ],
)
def test_a_softmax_over_one_unit(last, outputs, constant):
    call = call_of(last, loss=lambda p: F.mse_loss(p, torch.zeros(16, outputs)), outputs=outputs)
    assert call.constant == constant


def test_targets_of_cross_entropy_that_are_distributions_and_others():
    target = torch.tensor([[0.5, 0.5], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    call = call_of(loss=lambda z: F.cross_entropy(z, target), x=torch.randn(4, 4), outputs=2)
    means = call.means()
    assert (means["undistributed"].item(), means["lowest"].item(), means["highest"].item()) == (0.5, 0.0, 1.0)
    spatial = torch.rand(4, 2, 3).softmax(1)
    net = nn.Conv1d(2, 2, 1)
    (call,) = tapped(net, torch.randn(4, 2, 3), lambda z: F.cross_entropy(z, spatial)).calls.values()
    assert call.means()["undistributed"].item() == 0


def test_of_several_calls_in_one_place_the_mean_is_kept():
    def loss(p):
        return sum(F.mse_loss(p, torch.full((16, 1), float(i))) for i in (1, 3))

    call = call_of(loss=loss)
    assert call.calls == 2
    assert call.means()["mean"].item() == 2


def test_predictions_may_come_second_and_features_are_no_targets():
    target = torch.full((16, 1), 7.0)
    assert call_of(loss=lambda p: F.mse_loss(target, p)).means()["mean"].item() == 7
    net = nn.Linear(4, 1)
    assert not tapped(net, torch.randn(6, 4), lambda p: F.mse_loss(p, 2 * p)).calls


@pytest.mark.parametrize(
    ("shapes", "crossed"),
    [(((8, 1), (8,)), True), (((8,), (8, 1)), True), (((8, 1), (8, 1)), False), (((8, 1), ()), False)],
)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_crossed_shapes(shapes, crossed):
    mine, other = shapes
    net = nn.Linear(4, 1)
    (call,) = tapped(net, torch.randn(8, 4), lambda p: F.mse_loss(p.reshape(mine), torch.zeros(other))).calls.values()
    assert call.crossed == crossed


@pytest.mark.parametrize(
    ("net", "x", "plain"),
    [
        (nn.Sequential(nn.Flatten(), nn.Dropout(0.1), nn.Linear(6, 1)), torch.randn(8, 2, 3), True),
        (nn.Sequential(nn.Conv1d(2, 3, 3), nn.Flatten(), nn.Linear(3, 1)), torch.randn(8, 2, 3), True),
        (nn.Sequential(nn.BatchNorm1d(3, affine=False), nn.Linear(3, 1)), torch.randn(8, 3), False),
        (nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 1)), torch.randn(8, 3), False),
        (nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)), torch.randn(8, 3), False),
        (nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.LayerNorm(3)), torch.randn(8, 3), True),
        (nn.Sequential(nn.Embedding(9, 3), nn.Flatten(), nn.Linear(6, 1)), torch.ones(8, 2).long(), False),
        (nn.Sequential(nn.PReLU(), nn.Linear(3, 1)), torch.randn(8, 3), False),
    ],
)
def test_which_inputs_are_numbers_that_reach_a_layer_as_they_are(net, x, plain):
    assert tapped(net, x, lambda y: y.square().sum()).input.plain == plain


def test_measures_of_inputs_are_by_feature():
    x = torch.tensor([[1.0, 100.0, 0.0], [3.0, 100.0, 0.0], [5.0, 130.0, 0.0]])
    seen = tapped(nn.Sequential(nn.Linear(3, 1)), x, lambda y: y.sum()).input
    measures = {name: value.item() for name, value in seen.measures.items()}
    assert measures["scale"] == pytest.approx(math.sqrt((100**2 + 100**2 + 130**2) / 3))
    assert measures["offset"] == pytest.approx(3 / math.sqrt(8 / 3))  # of 0, 1.84 and 7.78
    assert measures["mean"] == pytest.approx(339 / 9, rel=1e-6)
    assert measures["alike"] == 0
    assert tapped(nn.Sequential(nn.Linear(3, 1)), x[:1].repeat(4, 1), lambda y: y.sum()).input.measures["alike"] == 1


def test_a_fingerprint_tells_order_and_values():
    x = torch.randn(64, 5)
    changed = x.clone()
    changed[7, 3] += 1e-2
    assert fingerprint(x) == fingerprint(x.clone())
    for other in (x.flip(0), changed, x[:, [1, 0, 2, 3, 4]]):
        assert not math.isclose(fingerprint(x).item(), fingerprint(other).item(), rel_tol=1e-6)


def test_no_graph_is_kept():
    x = torch.randn(16, 4)
    net = nn.Sequential(nn.Linear(4, 1), nn.Sigmoid())
    modules = dict(net.named_modules())
    seen = ContractTap(modules)
    with StepTap(modules, contracts=seen):
        F.mse_loss(net(x), torch.zeros(16, 1))
    assert not any(value.requires_grad for call in seen.calls.values() for value in call.sums.values())
