"""Batch, layer, group and weight normalisation."""

from functools import partial

from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from detection import data
from detection.networks.attention import Encoder, PostNorm
from detection.networks.convolutional import GroupNormNet
from detection.networks.dense import DIGITS, dense
from detection.networks.residual import Gated
from detection.optimizers import adagrad, adam, adamw, rmsprop, sgd
from detection.recipe import trained
from detection.tasks import (
    on_cancer,
    on_diabetes,
    on_digits,
    on_images,
    on_parity,
    on_rows,
    on_spirals,
    on_wine,
)
from lightning_gradtools.tasks.networks import CNN


def normalised_weights() -> nn.Module:
    net = dense([13, 24, 24, 3], nn.Tanh)
    return nn.Sequential(*(weight_norm(layer) if isinstance(layer, nn.Linear) else layer for layer in net.children()))


def raw_features() -> nn.Module:
    """Features in their own units, with batch norm in front."""
    return nn.Sequential(nn.BatchNorm1d(30), nn.Linear(30, 24), nn.SiLU(), nn.BatchNorm1d(24), nn.Linear(24, 2))


RECIPES = [
    on_digits("batch_norm", lambda: dense(DIGITS, between=nn.BatchNorm1d), adam(), hard=True),
    on_images("batch_norm_cnn", lambda: CNN(channels=(8, 8, 16)), adam(5e-3), batch_size=64, hard=True),
    on_digits("layer_norm_gelu", lambda: dense(DIGITS, nn.GELU, nn.LayerNorm), adam(), hard=True),
    on_digits("bias_before_batch_norm", lambda: dense([64, 48, 48, 48, 10], between=nn.BatchNorm1d), sgd(0.1)),
    on_wine("batch_norm_wine", lambda: dense([13, 24, 24, 3], between=nn.BatchNorm1d), sgd(0.05), hard=True),
    on_cancer("layer_norm_tanh", lambda: dense([30, 24, 24, 24, 2], nn.Tanh, nn.LayerNorm), adagrad(), hard=True),
    on_rows("pre_norm_encoder", lambda: Encoder(1), adam(5e-3), steps=200, hard=True),
    on_wine("weight_norm", normalised_weights, sgd(0.1, momentum=0.5)),
    on_diabetes(
        "batch_norm_regression",
        lambda: dense([10, 24, 24, 1], nn.Tanh, nn.BatchNorm1d),
        adam(1e-2),
        hard=True,
        half="report",
    ),
    on_parity("gated_layer_norm", lambda: Gated(64, 2, 4), adamw(3e-3), steps=250, hard=True, half="report"),
    on_rows("post_norm", lambda: PostNorm(2, "gelu"), adam(3e-3), steps=150, hard=True, half="report"),
    trained(
        "raw_features_batch_norm",
        raw_features,
        sgd(0.1, momentum=0.5),
        data=partial(data.unscaled_table, "breast_cancer"),
        twin="raw_features_batch_norm",
        batch_size=24,
        steps=200,
        hard=True,
        half="fresh",
    ),
    on_images("one_group_norm", GroupNormNet, adamw(5e-3), steps=150, hard=True, half="fresh"),
    on_spirals(
        "layer_norm_spirals",
        lambda: dense([2, 40, 40, 40, 2], nn.SiLU, nn.LayerNorm),
        rmsprop(3e-3),
        hard=True,
        half="fresh",
    ),
]
