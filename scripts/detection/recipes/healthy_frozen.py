"""Layers that are not trained, on purpose."""

from torch import nn

from detection.networks.characters import FrozenEmbedding
from detection.networks.convolutional import FrozenEncoder
from detection.networks.dense import FrozenBackbone, LowRank, WithFrozenCopy, dense
from detection.networks.recurrent import Reservoir
from detection.optimizers import adagrad, adam, adamw, sgd
from detection.tasks import on_bags, on_cancer, on_digits, on_images, on_iris, on_rows


def frozen_middle() -> nn.Module:
    """Three hidden layers of which the second keeps its random weights."""
    net = dense([30, 32, 32, 32, 2], nn.Tanh)
    net.get_submodule("2").requires_grad_(False)
    return net


def frozen_output() -> nn.Module:
    """An output layer that keeps its random weights; all before it is trained."""
    net = dense([64, 64, 32, 10], nn.SiLU)
    net.get_submodule("4").requires_grad_(False)
    return net


RECIPES = [
    on_digits("frozen_backbone", FrozenBackbone, adam(5e-3), hard=True),
    on_images("frozen_encoder", FrozenEncoder, adamw(5e-3), steps=200, hard=True),
    on_digits("low_rank", LowRank, adam(5e-3), hard=True),
    on_iris("frozen_copy", lambda: WithFrozenCopy(dense([4, 24, 24, 3])), adam(5e-3)),
    on_cancer("frozen_middle", frozen_middle, sgd(0.05, momentum=0.9), hard=True, half="report"),
    on_rows("reservoir", Reservoir, adagrad(0.02), twin="rnn", steps=150, hard=True, half="report"),
    on_bags("frozen_embedding", FrozenEmbedding, adam(1e-2), steps=250, hard=True, half="fresh"),
    on_digits("frozen_output", frozen_output, adam(3e-3), steps=250, hard=True, half="fresh"),
]
