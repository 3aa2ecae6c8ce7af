import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_gradtools._lightning.copy_on_write import CopyOnWrite, copied_back

WAYS = {
    "in place": lambda weight: weight.mul_(2),
    "through data": lambda weight: weight.data.mul_(2),
    "new data": lambda weight: setattr(weight, "data", weight.data * 2),
    "through data, then new data": lambda weight: setattr(weight, "data", weight.data.mul_(2).clone()),
    "part of it": lambda weight: weight[1:].fill_(3),
    "several at once": lambda weight: torch._foreach_mul_([weight.data], 2.0),
    "as an output": lambda weight: torch.add(weight, 1, out=weight.data),
    "by a function of torch's": lambda weight: F.embedding(torch.arange(3), weight, max_norm=0.1),
    "by another's name": lambda weight: weight.view(-1).zero_(),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("times", [1, 2])
def test_what_is_written_to_is_put_back_in_its_memory(way, times):
    weight, other = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(3, 4))
    values, places = [weight.detach().clone(), other.detach().clone()], [weight.data_ptr(), other.data_ptr()]
    watched = CopyOnWrite([weight, other])
    for _ in range(times):
        with watched, torch.no_grad():
            WAYS[way](weight)
        assert not torch.equal(weight, values[0])
        watched.put_back()
        assert all(map(torch.equal, [weight, other], values))
        assert [weight.data_ptr(), other.data_ptr()] == places
    undo = copied_back(weight)
    with torch.no_grad():
        WAYS[way](weight)
    undo()
    assert torch.equal(weight, values[0])
    assert weight.data_ptr() == places[0]


def test_what_is_only_read_is_not_copied(monkeypatch):
    weights = [nn.Parameter(torch.randn(3, 4), requires_grad=False) for _ in range(3)]
    copies, clone = [], torch.Tensor.clone
    monkeypatch.setattr(torch.Tensor, "clone", lambda tensor: copies.append(tensor.data_ptr()) or clone(tensor))
    x = torch.randn(2, 4, requires_grad=True)
    watched = CopyOnWrite(weights)
    with watched:
        loss = sum(F.linear(x, weight).square().sum() for weight in weights)
        weights[1].data.mul_(0.5)
    loss.backward()
    assert copies == [weights[1].data_ptr()]


def test_tied_weights_and_those_without_memory_are_put_back():
    tied, sparse = torch.randn(3), torch.eye(3).to_sparse()
    one, other = nn.Parameter(tied[:2]), nn.Parameter(tied[1:])
    before = tied.clone()
    watched = CopyOnWrite([one, other, sparse, torch.empty(0)])
    with watched, torch.no_grad():
        one.zero_()
        other.fill_(2)
        sparse.mul_(2)
    watched.put_back()
    assert torch.equal(tied, before)
    assert torch.equal(sparse.to_dense(), torch.eye(3))


def test_higher_order_operators_run():
    """Which ask each mode whether it knows them."""
    weight = nn.Parameter(torch.ones(2), requires_grad=False)
    watched = CopyOnWrite([weight])

    def scaled(x):
        return torch.cond(x.sum() > 0, lambda x: x * weight, lambda x: x, (x,))

    with watched, torch.compiler.set_stance("force_eager"):
        weight.data.mul_(3)
        assert torch.equal(scaled(torch.ones(2)), torch.full((2,), 3.0))
    watched.put_back()
    assert torch.equal(weight, torch.ones(2))
