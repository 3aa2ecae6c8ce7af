"""kornia: its small vision transformer, behind its random blur of images."""

from typing import Any

import kornia
import lightning.pytorch as pl
import torch.nn.functional as F
from kornia.models.tiny_vit import TinyViT
from torch import Tensor, nn

from projects.recipe import INITIAL, Recipe, Setting, batches, images, train


def loss(model: nn.Module, batch: Any) -> Tensor:
    pictures, labels = batch
    return F.cross_entropy(model(pictures), labels)


def fit(setting: Setting) -> pl.LightningModule:
    network = TinyViT(32, num_classes=4, embed_dims=(16, 32), depths=(1, 2), num_heads=(2, 2), window_sizes=(4, 4))
    model = nn.Sequential(kornia.augmentation.RandomBoxBlur(p=0.3), network)
    return train(setting, model, loss, batches(*images()))


RECIPES = {"kornia TinyViT": Recipe(package="kornia", sickness=INITIAL, fit=fit)}
