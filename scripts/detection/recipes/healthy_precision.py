"""bfloat16, and float16 with a loss scale that overflows now and then."""

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn

from detection.networks.attention import Encoder
from detection.networks.characters import small_gpt
from detection.networks.convolutional import ConvNet
from detection.networks.dense import DIGITS, dense
from detection.networks.recurrent import Unrolled
from detection.optimizers import adam, adamw, sgd
from detection.tasks import (
    on_cancer,
    on_diabetes,
    on_digits,
    on_images,
    on_iris,
    on_rows,
    on_spirals,
    on_text,
    reconstructing,
)


def fp16(scale: float, growth_interval: int) -> Any:
    """Return a loss scale that overflows at first, and again each time it has grown."""
    return lambda: {
        "plugins": [
            MixedPrecision(
                "16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=growth_interval)
            )
        ]
    }


RECIPES = [
    on_digits("bf16", lambda: dense(DIGITS), adam(), trainer=lambda: {"precision": "bf16-mixed"}, hard=True),
    on_digits("fp16_loss_scale", lambda: dense(DIGITS), adam(), trainer=fp16(2.0**22, 60), hard=True),
    on_rows(
        "bf16_recurrent",
        lambda: Unrolled(8, 10, gain=1.0),
        adam(3e-3),
        twin="rnn",
        steps=200,
        trainer=lambda: {"precision": "bf16-mixed"},
        hard=True,
    ),
    on_diabetes(
        "fp16_regression", lambda: dense([10, 32, 1], nn.GELU), sgd(0.05), trainer=fp16(2.0**24, 40), hard=True
    ),
    on_cancer(
        "fp16_batch_norm",
        lambda: dense([30, 24, 24, 2], between=nn.BatchNorm1d),
        adam(3e-3),
        trainer=fp16(2.0**26, 25),
        hard=True,
    ),
    on_text("gpt_bf16", small_gpt, adamw(5e-3), trainer=lambda: {"precision": "bf16-mixed"}, hard=True, half="report"),
    reconstructing(
        "fp16_autoencoder",
        lambda: dense([64, 48, 16, 48, 64], nn.ELU),
        adam(5e-3),
        steps=250,
        trainer=fp16(2.0**25, 50),
        hard=True,
        half="report",
    ),
    on_iris(
        "fp16_iris",
        lambda: dense([4, 24, 24, 3], nn.SiLU),
        sgd(0.2),
        trainer=fp16(2.0**30, 20),
        hard=True,
        half="report",
    ),
    on_spirals(
        "bf16_spirals",
        lambda: dense([2, 48, 48, 2], nn.SiLU),
        adam(5e-3),
        trainer=lambda: {"precision": "bf16-mixed"},
        hard=True,
        half="fresh",
    ),
    on_rows(
        "bf16_encoder",
        lambda: Encoder(2),
        adamw(3e-3),
        steps=120,
        trainer=lambda: {"precision": "bf16-mixed"},
        hard=True,
        half="fresh",
    ),
    on_images(
        "fp16_conv_net",
        lambda: ConvNet([8, 12], F.silu),
        adam(5e-3),
        steps=160,
        trainer=fp16(2.0**23, 30),
        hard=True,
        half="fresh",
    ),
    on_text(
        "fp16_gpt",
        lambda: small_gpt(activation="silu"),
        adamw(8e-3),
        trainer=fp16(2.0**28, 45),
        hard=True,
        half="fresh",
    ),
]
