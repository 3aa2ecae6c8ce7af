"""segmentation-models-pytorch and MONAI: U-Nets that find a disk in a noisy image."""

from functools import partial
from typing import Any

import lightning.pytorch as pl
import segmentation_models_pytorch as smp
import torch
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from torch import Tensor, nn

from projects.recipe import EQUAL, RATE, Recipe, Setting, batches, train

SIZE = 32


def disks(channels: int, count: int = 64) -> tuple[Tensor, Tensor]:
    """Return images and masks."""
    place = torch.arange(SIZE)
    centre = torch.randint(8, SIZE - 8, (count, 2, 1, 1))
    masks = ((place[:, None] - centre[:, :1]) ** 2 + (place[None, :] - centre[:, 1:]) ** 2 < 36).float()
    pictures = masks + 0.3 * torch.randn(count, channels, SIZE, SIZE)
    return pictures, masks


def loss(criterion: nn.Module, model: nn.Module, batch: Any) -> Tensor:
    pictures, masks = batch
    found: Tensor = criterion(model(pictures), masks)
    return found


def smp_unet(setting: Setting) -> pl.LightningModule:
    model = smp.Unet("resnet18", encoder_depth=3, encoder_weights=None, decoder_channels=(32, 16, 8), classes=1)
    criterion = smp.losses.DiceLoss("binary")
    return train(setting, model, partial(loss, criterion), batches(*disks(3), size=8), steps=80)


def monai_unet(setting: Setting) -> pl.LightningModule:
    model = UNet(spatial_dims=2, in_channels=1, out_channels=1, channels=(8, 16, 32), strides=(2, 2), num_res_units=1)
    criterion = DiceCELoss(sigmoid=True)
    return train(setting, model, partial(loss, criterion), batches(*disks(1), size=8), rate=1e-2, steps=200)


SHALLOW = "an encoder of depth 3 keeps the stages below it and does not call them"
RECIPES = {
    "segmentation-models U-Net": Recipe(
        package="segmentation-models-pytorch", sickness=EQUAL, fit=smp_unet, true={"no_gradient": SHALLOW}
    ),
    "MONAI U-Net": Recipe(package="monai", sickness=RATE, fit=monai_unet),
}
