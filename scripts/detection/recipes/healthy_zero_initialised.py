"""Branches and outputs that start at zero or nearly so."""

from detection.networks.attention import Encoder
from detection.networks.convolutional import ResidualConvNet
from detection.networks.dense import DIGITS, SideNetwork, dense
from detection.networks.layers import Inner
from detection.networks.residual import ResidualStack, ReZero, Scaled
from detection.networks.weights import zero_branches, zero_output
from detection.optimizers import adam, adamw, sgd
from detection.tasks import on_cancer, on_digits, on_friedman, on_images, on_rows, on_wine

RECIPES = [
    on_digits("zero_residual", lambda: ResidualStack(8, zero=True), adam(), hard=True),
    on_digits("zero_output_layer", lambda: zero_output(dense(DIGITS)), adam()),
    on_cancer("rezero", lambda: ReZero(30, 2, 6), adam(1e-2), hard=True),
    on_images(
        "zero_conv_branches",
        lambda: zero_branches(ResidualConvNet(4, norm=False)),
        adam(1e-2),
        steps=200,
        hard=True,
        half="report",
    ),
    on_rows(
        "zero_encoder_branches", lambda: zero_branches(Encoder(3)), adam(5e-3), steps=120, hard=True, half="report"
    ),
    on_friedman("small_layer_scale", lambda: Scaled(10, 1, 6, 1e-3), adam(5e-3), hard=True, half="fresh"),
    on_rows(
        "layer_scale_rows",
        lambda: Inner(Scaled(64, 10, 3, 0.0, 32)),
        adamw(5e-3),
        twin="mlp_adam",
        steps=150,
        hard=True,
        half="fresh",
    ),
    on_wine("zero_joint", lambda: SideNetwork(13, 3), sgd(0.1, momentum=0.8), steps=250, hard=True, half="fresh"),
]
