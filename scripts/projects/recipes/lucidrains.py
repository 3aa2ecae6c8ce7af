"""x-transformers and vit-pytorch: transformers as plain modules."""

from typing import Any

import lightning.pytorch as pl
import torch.nn.functional as F
from torch import Tensor, nn
from vit_pytorch import ViT
from x_transformers import AutoregressiveWrapper, Decoder, TransformerWrapper

from projects.recipe import EQUAL, RATE, Recipe, Setting, batches, images, sentences, train


def own_loss(model: nn.Module, batch: Any) -> Tensor:
    found: Tensor = model(*batch)
    return found


def decoder(setting: Setting) -> pl.LightningModule:
    layers = Decoder(dim=32, depth=2, heads=4, rotary_pos_emb=True, use_rmsnorm=True)
    model = AutoregressiveWrapper(TransformerWrapper(num_tokens=40, max_seq_len=64, attn_layers=layers))
    return train(setting, model, own_loss, batches(sentences()), rate=3e-3)


def classified(model: nn.Module, batch: Any) -> Tensor:
    pictures, labels = batch
    return F.cross_entropy(model(pictures), labels)


def vit(setting: Setting) -> pl.LightningModule:
    model = ViT(image_size=32, patch_size=8, num_classes=4, dim=32, depth=2, heads=2, mlp_dim=64)
    pictures, labels = images()
    return train(setting, model, classified, batches(pictures, labels))


RECIPES = {
    "x-transformers decoder": Recipe(package="x-transformers", sickness=RATE, fit=decoder),
    "vit-pytorch ViT": Recipe(package="vit-pytorch", sickness=EQUAL, fit=vit),
}
