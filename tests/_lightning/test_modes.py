import pytest
from lightning.pytorch import LightningModule
from torch import nn

from lightning_gradtools._lightning.modes import evaluating_by_mistake


class Drop(nn.Module):
    def __init__(self, dropout=0.1):
        super().__init__()
        self.dropout = dropout


def module(**parts):
    made = LightningModule()
    for name, part in parts.items():
        made.add_module(name, part)
    return made


def found(made, frozen=()):
    trained = {id(p) for name, p in made.named_parameters() if not name.startswith(tuple(frozen))}
    leaves = [name for name, each in made.named_modules() if name and (_owns(each) or not list(each.children()))]
    ran = [name for name in leaves if not made.get_submodule(name).training]
    return evaluating_by_mistake(made, ran, trained)


def _owns(module):
    return bool(list(module.parameters(recurse=False)))


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm1d(4),
        nn.BatchNorm1d(4, affine=False),
        nn.InstanceNorm1d(4, track_running_stats=True),
        nn.Dropout(0.1),
        nn.AlphaDropout(0.1),
        nn.LSTM(4, 4, num_layers=2, dropout=0.1),
        nn.MultiheadAttention(4, 2, dropout=0.1),
        Drop(),
    ],
    ids=lambda each: type(each).__name__,
)
def test_layers_that_depend_on_the_mode(layer):
    made = module(net=nn.Sequential(nn.Linear(4, 4), layer))
    assert found(made) == []
    made.net.eval()
    assert found(made) == ["net"]
    made.eval()
    assert found(made) == [""]


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm1d(4, track_running_stats=False),
        nn.InstanceNorm1d(4),
        nn.LayerNorm(4),
        nn.Dropout(0.0),
        nn.LSTM(4, 4),
        nn.MultiheadAttention(4, 2),
        Drop(0.0),
    ],
    ids=lambda each: type(each).__name__,
)
def test_layers_that_do_not(layer):
    made = module(net=nn.Sequential(nn.Linear(4, 4), layer))
    made.eval()
    assert found(made) == []


def test_each_outermost_one_is_named_once():
    block = [nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.1)]
    made = module(a=nn.Sequential(*block), b=nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1))), c=Drop())
    made.a.eval()
    made.b[0].eval()
    assert found(made) == ["a", "b.0"]


def test_what_is_singled_out_or_frozen_is_meant():
    made = module(net=nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.1)), head=nn.Linear(4, 4))
    made.net[1].eval()
    made.net[2].eval()
    assert found(made) == []
    made.net.eval()
    assert found(made, frozen=["net."]) == []
    assert found(made, frozen=["net.0"]) == []  # most of it
    assert found(made, frozen=["net.1"]) == ["net"]  # its dropout is not
