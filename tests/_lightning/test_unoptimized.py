from types import SimpleNamespace

import torch
from torch import nn

from lightning_gradtools._lightning.unoptimized import unoptimized


def test_a_gradient_and_no_optimizer():
    net = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(5)))
    net[3].requires_grad_(False)
    net[:4](torch.ones(1, 2)).sum().backward()  # which never reaches the last
    optimizers = [torch.optim.SGD(net[i].parameters(), lr=0.1) for i in (0, 2)]
    assert unoptimized(SimpleNamespace(optimizers=optimizers), net.parameters()) == [net[1].weight]
