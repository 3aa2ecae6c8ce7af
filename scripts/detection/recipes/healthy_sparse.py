"""Units that fire rarely, and embeddings of which a batch touches few rows."""

import torch
from torch import nn

from detection import data
from detection.networks.characters import AttentionPool, Bag, Frequencies, Grams, Pairs, SparseBag, SparseLogits
from detection.networks.convolutional import ConvNet
from detection.networks.dense import dense
from detection.networks.layers import TopK
from detection.networks.weights import biased, he, initialized
from detection.optimizers import adagrad, adam, optimizer, sgd
from detection.tasks import on_bags, on_cancer, on_digits, on_friedman, on_images, reconstructing


def sparse_relu() -> nn.Module:
    """A wide layer whose units fire on few samples each: biases well below zero."""
    net = dense([64, 256, 64, 10])
    initialized(net, he())
    with torch.no_grad():
        net[0].bias.fill_(-1.0)  # type: ignore[index]
    return net


RECIPES = [
    on_digits("sparse_relu", sparse_relu, adam(), hard=True),
    on_bags("sparse_embedding", lambda: SparseBag(data.VOCABULARY, 16, 3), sgd(3.0), steps=400, hard=True),
    on_cancer(
        "sparse_relu_cancer",
        lambda: biased(initialized(dense([30, 160, 2]), he()), ("0", -1.0)),
        sgd(0.02, momentum=0.9, nesterov=True),
        hard=True,
    ),
    on_bags(
        "sparse_votes",
        lambda: SparseLogits(data.VOCABULARY, 3),
        lambda p: torch.optim.SparseAdam(p, lr=2e-2),
        hard=True,
    ),
    on_bags("embeddings", lambda: Bag(data.VOCABULARY, 3, lambda embedding, ids: embedding(ids)), adagrad(0.1)),
    on_images(
        "sparse_conv_net",
        lambda: biased(initialized(ConvNet([32, 8]), he()), ("convolutions.0", -0.8)),
        adam(5e-3),
        steps=150,
        hard=True,
        half="report",
    ),
    reconstructing(
        "overcomplete_code",
        lambda: biased(initialized(dense([64, 160, 64]), he()), ("0", -0.2)),
        adam(3e-3),
        hard=True,
        half="report",
    ),
    on_bags(
        "sparse_adagrad", lambda: SparseBag(data.VOCABULARY, 8, 3), adagrad(0.2), steps=250, hard=True, half="report"
    ),
    on_bags(
        "three_grams",
        lambda: Grams(data.VOCABULARY, 3, nn.Sequential(nn.Linear(24, 24), nn.SiLU())),
        adam(1e-2),
        steps=250,
        half="report",
    ),
    on_bags("attention_pool", lambda: AttentionPool(data.VOCABULARY, 3), adam(2e-2), steps=250, half="report"),
    on_friedman(
        "sparse_relu_friedman",
        lambda: biased(initialized(dense([10, 200, 1]), he()), ("0", -1.5)),
        adam(5e-3),
        hard=True,
        half="fresh",
    ),
    on_digits(
        "largest_units",
        lambda: nn.Sequential(nn.Linear(64, 96), nn.ReLU(), TopK(10), nn.Linear(96, 10)),
        optimizer("Adamax", 1e-2),
        steps=250,
        hard=True,
        half="fresh",
    ),
    on_bags("sparse_pairs", Pairs, adagrad(0.3), steps=250, hard=True, half="fresh"),
    on_bags("linear_frequencies", Frequencies, adam(2e-2), steps=250, hard=True, half="fresh"),
]
