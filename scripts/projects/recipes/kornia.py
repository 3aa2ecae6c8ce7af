"""kornia: its vision transformer, behind its random flips of images."""

from typing import Any

import kornia
import lightning.pytorch as pl
import torch.nn.functional as F
from torch import Tensor, nn

from projects.recipe import INITIAL, Recipe, Setting, batches, images, train


def loss(model: nn.Module, batch: Any) -> Tensor:
    pictures, labels = batch
    return F.cross_entropy(model(pictures)[:, 0], labels)


def fit(setting: Setting) -> pl.LightningModule:
    network = kornia.models.vit.VisionTransformer(image_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2)
    model = nn.Sequential(kornia.augmentation.RandomBoxBlur(p=0.3), network, nn.Linear(32, 4))
    return train(setting, model, loss, batches(*images()))


RECIPES = {"kornia ViT": Recipe(package="kornia", sickness=INITIAL, fit=fit)}
