"""timm: classifiers of images by name, without their weights."""

from functools import partial
from typing import Any

import lightning.pytorch as pl
import timm
import torch.nn.functional as F
from torch import Tensor, nn

from projects.recipe import BIAS, EQUAL, Recipe, Setting, batches, images, train


def loss(model: nn.Module, batch: Any) -> Tensor:
    pictures, labels = batch
    return F.cross_entropy(model(pictures), labels)


def fit(name: str, settings: dict[str, Any], setting: Setting) -> pl.LightningModule:
    model = timm.create_model(name, pretrained=False, num_classes=4, **settings)
    return train(setting, model, loss, batches(*images(), size=16), steps=120)


VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3}
RECIPES = {
    "timm ResNet": Recipe(package="timm", sickness=EQUAL, fit=partial(fit, "resnet10t", {"stem_width": 16})),
    "timm ViT": Recipe(package="timm", sickness=BIAS, fit=partial(fit, "vit_tiny_patch16_224", VIT)),
}
