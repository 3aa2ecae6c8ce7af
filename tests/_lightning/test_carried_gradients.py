"""What is found of gradients between two steps of an optimizer, without a Trainer."""

import pytest
import torch
from torch import nn

from lightning_gradtools._lightning.carried_gradients import CarriedGradients


class Loop:
    """A training loop in the order of Lightning's hooks."""

    def __init__(self, layers=2):
        torch.manual_seed(0)
        self.layers = [nn.Linear(3, 3) for _ in range(layers)]
        self.optimizers = [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in self.layers]
        self.carried = CarriedGradients()

    def backward(self, *indices):
        self.carried.before_backward()
        sum(self.layers[i](torch.ones(2, 3)).square().sum() for i in indices).backward()
        self.carried.after_backward()

    def step(self, index, by_hand=False):
        self.carried.before_step(self.optimizers[index], by_hand)
        self.optimizers[index].step()
        self.carried.after_step(self.optimizers[index])

    def found(self):
        """For each step that was judged: which layers' weights were carried over."""
        owners = {id(layer.weight): i for i, layer in enumerate(self.layers)}
        return [[owners[id(p)] for p in each.parameters if id(p) in owners] for each in self.carried.take()]


def cleared_none(optimizer):
    optimizer.zero_grad()


def cleared_zero(optimizer):
    optimizer.zero_grad(set_to_none=False)


@pytest.mark.parametrize("clear", [cleared_none, cleared_zero])
@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("by_hand", [False, True])
def test_cleared_and_not(clear, passes, by_hand):
    loop = Loop()
    for clears in (True, True, False, True):
        if clears:
            clear(loop.optimizers[0])
        for _ in range(passes):
            loop.backward(0)
        loop.step(0, by_hand)
    assert loop.found() == [[], [0], []]
    assert loop.found() == []


def test_the_norm_is_that_of_what_was_left():
    loop = Loop()
    loop.backward(0)
    loop.step(0)
    left = torch.cat([p.grad.reshape(-1) for p in loop.layers[0].parameters()]).norm()
    for _ in range(2):
        loop.backward(0)
    loop.step(0)
    (carried,) = loop.carried.take()
    assert carried.norm.item() == pytest.approx(left.item())


def test_clearing_that_leaves_no_trace_leaves_no_norm():
    loop = Loop()
    loop.backward(0)
    loop.step(0)
    for parameter in loop.layers[0].parameters():
        parameter.grad.data.zero_()
    loop.backward(0)
    loop.step(0)
    (carried,) = loop.carried.take()
    assert carried.norm.item() == 0


def test_each_optimizer_by_itself():
    loop = Loop()
    for _ in range(3):
        loop.optimizers[0].zero_grad()
        loop.backward(0, 1)  # which leaves something in the other's
        loop.step(0)
        loop.optimizers[1].zero_grad()
        loop.backward(0, 1)
        loop.step(1)
    assert loop.found() == [[]] * 4
    loop.backward(0, 1)
    loop.step(0)
    assert loop.found() == [[0]]


def test_a_pass_that_was_not_seen_proves_nothing_by_hand():
    loop = Loop()
    loop.backward(0, 1)
    loop.step(1, by_hand=True)
    loop.backward(0, 1)
    cleared_zero(loop.optimizers[1])
    loop.layers[1](torch.ones(2, 3)).sum().backward()
    loop.step(1, by_hand=True)
    assert loop.found() == [[]]


def test_clipping_by_hand_hides_nothing():
    loop = Loop()
    for _ in range(2):
        loop.backward(0)
        nn.utils.clip_grad_norm_(loop.layers[0].parameters(), 0.1)
        loop.step(0, by_hand=True)
    assert loop.found() == [[0]]


def test_a_step_after_no_pass_is_not_judged():
    loop = Loop()
    loop.backward(0)
    loop.step(0)
    loop.step(0)
    assert loop.found() == []
    loop.carried.stop()
    loop.backward(0)
    loop.step(0)
    assert loop.found() == []


def test_sparse_gradients():
    table = nn.Embedding(5, 3, sparse=True)
    optimizer, carried = torch.optim.SGD(table.parameters(), lr=0.1), CarriedGradients()
    for _ in range(2):
        carried.before_backward()
        table(torch.tensor([1, 1, 2])).sum().backward()
        carried.after_backward()
        carried.before_step(optimizer, by_hand=False)
        optimizer.step()
        carried.after_step(optimizer)
    (found,) = carried.take()
    assert found.parameters == [table.weight]
    assert found.norm.item() == pytest.approx((3 * (4 + 1)) ** 0.5)
