"""torch-geometric: networks on graphs, which classify their nodes."""

from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn.models import GAT, GCN

from projects.recipe import INPUTS, RATE, Recipe, Setting, train

CLASSES = 3


def graph(setting: Setting, nodes: int = 30) -> Data:
    """Return a graph most of whose edges are within a class, with noisy signs of the class at the nodes."""
    labels = torch.randint(CLASSES, (nodes,))
    chance = torch.where(labels[:, None] == labels[None, :], 0.3, 0.03)
    edges = torch.bernoulli(chance).nonzero().T
    features = F.one_hot(labels, 8).float() + 0.7 * torch.randn(nodes, 8)
    return Data(x=setting.inputs(features), edge_index=edges, y=labels)


def loss(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch.x, batch.edge_index), batch.y)


def fit(kind: Any, setting: Setting) -> pl.LightningModule:
    loader = DataLoader([graph(setting) for _ in range(32)], batch_size=8, shuffle=True)
    return train(setting, kind(8, 32, num_layers=3, out_channels=CLASSES), loss, loader, rate=5e-3)


RECIPES = {
    "torch-geometric GCN": Recipe(package="torch-geometric", sickness=RATE, fit=partial(fit, GCN)),
    "torch-geometric GAT": Recipe(package="torch-geometric", sickness=INPUTS, fit=partial(fit, GAT)),
}
