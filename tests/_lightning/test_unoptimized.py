from types import SimpleNamespace

import torch
from torch import nn

from lightning_gradtools._lightning.unoptimized import Unoptimized


def run():
    net = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(5)))
    net[3].requires_grad_(False)
    net[:4](torch.ones(1, 2)).sum().backward()  # which never reaches the last
    optimizers = [torch.optim.SGD(net[i].parameters(), lr=0.1) for i in (0,)]
    return net, SimpleNamespace(optimizers=optimizers)


def test_a_gradient_and_no_optimizer_from_the_second_sample_on():
    net, trainer = run()
    left_out = Unoptimized()
    assert left_out.find(trainer, net.parameters(), 0) == []
    assert left_out.find(trainer, net.parameters(), 0) == []
    for step in (1, 2):
        assert left_out.find(trainer, net.parameters(), step) == [net[1].weight, net[2].weight]


def test_what_somebody_else_changes_is_looked_after():
    net, trainer = run()
    left_out, own = Unoptimized(), torch.optim.Adam(net[2].parameters())
    left_out.find(trainer, net.parameters(), 0)
    for step in (1, 2):
        own.step()
        for _ in range(2):  # as with two optimizers
            assert left_out.find(trainer, net.parameters(), step) == [net[1].weight]
    left_out.find(trainer, net.parameters(), 3)
    assert left_out.find(trainer, net.parameters(), 4) == [net[1].weight, net[2].weight]
