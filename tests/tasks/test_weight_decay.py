from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import LBFGS, SGD, Adam, AdamW

from lightning_gradtools.tasks import CNN, GPT, MLP
from lightning_gradtools.tasks.weight_decay import weight_decay_groups


def names(network, group):
    by_id = {id(p): name for name, p in network.named_parameters()}
    return {by_id[id(p)] for p in group["params"]}


@pytest.mark.parametrize(
    ("network", "decayed"),
    [
        (
            MLP(4, 2, depth=2, norm="batch"),
            {"layers.0.linear.weight", "layers.1.linear.weight", "output.weight"},
        ),
        (CNN(channels=(2, 3)), {"layers.0.conv.weight", "layers.1.conv.weight", "output.weight"}),
        (
            GPT(9, 8, depth=1, width=8, heads=1),
            {f"blocks.0.{n}.weight" for n in ("attention.qkv", "attention.output", "mlp.expand", "mlp.contract")},
        ),
        (nn.Sequential(nn.LayerNorm((3, 4)), nn.Flatten(), nn.Linear(12, 2)), {"2.weight"}),
    ],
)
def test_matrices_and_kernels_decay_and_nothing_else(network, decayed):
    with_decay, without = weight_decay_groups(network, partial(AdamW, weight_decay=0.1))
    everything = {name for name, _ in network.named_parameters()}
    assert names(network, with_decay) == decayed
    assert names(network, without) == everything - decayed
    assert "weight_decay" not in with_decay
    assert without["weight_decay"] == 0


def test_the_optimizer_gets_the_factorys_decay_on_the_first_group_only():
    factory = partial(AdamW, lr=0.1, weight_decay=0.3)
    optimizer = factory(weight_decay_groups(MLP(4, 2), factory))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    torch_default = [group["weight_decay"] for group in AdamW(weight_decay_groups(MLP(4, 2), AdamW)).param_groups]
    assert torch_default == [0.01, 0.0]


@pytest.mark.parametrize("factory", [SGD, Adam, LBFGS, partial(AdamW, weight_decay=0), lambda p: SGD(p, lr=1)])
def test_without_decay_there_is_one_plain_list(factory):
    network = MLP(4, 2)
    network.output.bias.requires_grad_(False)
    parameters = weight_decay_groups(network, factory)
    assert [id(p) for p in parameters] == [id(p) for p in network.parameters() if p.requires_grad]
    assert len(factory(parameters).param_groups) == 1


def test_an_empty_group_is_left_out():
    linear = nn.Linear(3, 2, bias=False)
    (group,) = weight_decay_groups(linear, AdamW)
    assert group["params"][0] is linear.weight
    with torch.no_grad():
        assert weight_decay_groups(nn.Identity(), AdamW) == []
