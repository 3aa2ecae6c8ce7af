"""Units that are dead or saturated from the start, or from one batch on."""

import torch
from torch import nn

from detection import data
from detection.corruptions import at, huge_batch
from detection.networks.attention import Encoder, PostNorm, SharpAttention
from detection.networks.characters import AttentionPool, Grams, Reader, small_gpt
from detection.networks.convolutional import ConvNet, PlainCNN
from detection.networks.dense import DIGITS, FunctionalMLP, dense
from detection.networks.generative import autoencoder
from detection.networks.recurrent import Recurrent, Stacked
from detection.networks.weights import biased, he, initialized, scaled_layer
from detection.optimizers import adagrad, adam, rmsprop, sgd
from detection.tasks import (
    on_bags,
    on_cancer,
    on_digits,
    on_images,
    on_iris,
    on_pixels,
    on_rows,
    on_text,
    on_wine,
    reconstructing,
)
from lightning_gradtools.tasks.networks import CNN


def closed_gates() -> nn.Module:
    net = Recurrent(nn.LSTM, 8)
    with torch.no_grad():
        for name, bias in net.cell.named_parameters():
            if name.startswith("bias"):
                bias.fill_(-12.0)
    return net


def mostly_dead() -> nn.Module:
    """A hidden layer of which two thirds never fire; the others learn the task."""
    net = initialized(dense([64, 96, 32, 10]), he())
    with torch.no_grad():
        net.get_submodule("0").bias[:64].fill_(-30.0)  # type: ignore[index]
    return net


def negative_weights() -> nn.Module:
    """Weights below zero on pixels that are not: no unit ever fires."""
    net = dense(DIGITS)
    initialized(net.get_submodule("0"), lambda w: w.abs_().neg_())
    return net


def large_attention() -> nn.Module:
    net = Encoder(1, norm=False)
    for block in net.blocks:
        for part in ("query", "key"):
            scaled_layer(block, part, 60.0)
    return net


def saturated_code() -> nn.Module:
    """A sigmoid bottleneck whose biases keep it at 1."""
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 12), nn.Sigmoid(), nn.Linear(12, 64))
    return biased(net, ("2", 10.0))


def relu_recurrence(bias: float) -> nn.Module:
    net = Stacked(lambda *a, **k: nn.RNN(*a, nonlinearity="relu", **k), 8, 10, 1)
    with torch.no_grad():
        net.cells.get_submodule("0").bias_ih_l0.fill_(bias)  # type: ignore[operator]
    return net


def mostly_dead_channels() -> nn.Module:
    """Six of eight channels never fire."""
    net = ConvNet([8, 8])
    net.convolutions[1].bias.data[:6] = -40.0  # type: ignore[operator]
    return net


def biases_of_both_signs() -> nn.Module:
    """Hidden units that are stuck at -1 or at 1."""
    net = dense([4, 24, 24, 3], nn.Tanh)
    for index in (0, 2):
        bias = net.get_submodule(str(index)).bias
        bias.data = 9.0 * torch.randn_like(bias).sign()  # type: ignore[arg-type]
    return net


RECIPES = [
    on_rows("lstm_closed_gates", closed_gates, adam(), fault="gate biases of -12", twin="lstm"),
    on_rows("attention_sharp", lambda: SharpAttention(sharpness=3000.0), sgd(0.1), fault="attention logits × 3000"),
    on_digits(
        "dead_bias",
        lambda: biased(initialized(dense(DIGITS), he()), ("2", -20.0)),
        sgd(),
        fault="biases of -20 before nn.ReLU",
        twin="mlp_sgd",
        location=("net.2", "net.3"),
    ),
    on_digits(
        "dead_bias_functional",
        lambda: biased(FunctionalMLP(DIGITS), ("hidden.1", -20.0)),
        sgd(),
        fault="biases of -20 before F.relu",
        twin="mlp_sgd",
        location=("net.hidden.1",),
    ),
    on_digits(
        "dead_bias_torch_relu",
        lambda: biased(FunctionalMLP([64, 64, 64, 64, 10], torch.relu), ("hidden.0", -20.0)),
        adam(1e-3),
        fault="biases of -20 before torch.relu",
        location=("net.hidden.0",),
    ),
    on_digits(
        "dead_bias_first",
        lambda: biased(dense(DIGITS), ("0", -30.0)),
        adam(1e-3),
        fault="biases of -30 in the first layer, Adam",
        location=("net.0", "net.1"),
    ),
    on_images(
        "dead_channels",
        lambda: biased(PlainCNN([8, 8, 16]), ("features.2", -15.0)),
        sgd(),
        fault="biases of -15 of a convolution",
        batch_size=64,
        location=("net.features.2", "net.features.3"),
    ),
    reconstructing(
        "dead_bottleneck",
        lambda: biased(autoencoder(), ("2", -15.0)),
        adam(1e-3),
        fault="biases of -15 in the bottleneck",
        location=("net.2", "net.3"),
    ),
    on_digits(
        "killed_by_a_batch",
        lambda: initialized(dense(DIGITS), he()),
        sgd(),
        fault="one batch × 1000",
        twin="mlp_sgd",
        corrupt=huge_batch,
    ),
    on_cancer(
        "dead_torch_relu",
        lambda: biased(FunctionalMLP([30, 24, 24, 2], torch.relu), ("hidden.0", -40.0)),
        rmsprop(),
        fault="biases of -40 before torch.relu",
        location=("net.hidden.0",),
    ),
    on_images(
        "dead_functional_conv",
        lambda: biased(ConvNet([8, 8]), ("convolutions.0", -25.0)),
        sgd(0.05, momentum=0.9),
        fault="biases of -25 of a convolution before F.relu",
        steps=150,
        location=("net.convolutions.0",),
    ),
    on_digits(
        "mostly_dead",
        mostly_dead,
        adam(),
        fault="two thirds of a layer's biases -30",
        steps=200,
        location=("net.0", "net.1"),
    ),
    on_pixels(
        "negative_weights",
        negative_weights,
        sgd(0.1),
        fault="negative weights on inputs that are not",
        steps=200,
        location=("net.0", "net.1"),
    ),
    on_rows(
        "dead_recurrence",
        lambda: relu_recurrence(-15.0),
        adam(1e-3),
        fault="biases of -15 of a ReLU RNN",
        twin="lstm",
        steps=150,
        location=("net.cells.0",),
    ),
    on_text(
        "gpt_dead_block",
        lambda: biased(small_gpt(activation="relu"), ("blocks.0.mlp.expand", -10.0)),
        adam(1e-2),
        fault="biases of -10 in the feed-forward layer",
        location=("net.blocks.0.mlp.expand", "net.blocks.0.mlp.activation"),
    ),
    on_cancer(
        "killed_by_a_batch_at_60",
        lambda: dense([30, 24, 24, 2]),
        sgd(0.05, momentum=0.9),
        fault="one batch × 10000, momentum",
        corrupt=at(60, lambda x, y: (x * 1e4, y)),
    ),
    on_digits(
        "tanh_biases",
        lambda: biased(dense([64, 48, 48, 10], nn.Tanh), ("0", 6.0)),
        sgd(0.05),
        fault="biases of 6 before tanh",
        steps=200,
        location=("net.0", "net.1"),
    ),
    reconstructing(
        "saturated_code",
        saturated_code,
        adam(1e-3),
        fault="biases of 10 before a sigmoid bottleneck",
        steps=200,
        location=("net.2", "net.3"),
    ),
    on_rows("large_attention", large_attention, sgd(0.02), fault="queries and keys times 60", steps=150),
    on_rows(
        "rnn_input_weights",
        lambda: Stacked(nn.RNN, 8, 10, 1, scale=60.0),
        adam(1e-3),
        fault="every weight of a tanh RNN times 60",
        twin="rnn",
        steps=150,
    ),
    on_cancer(
        "dead_layer_norm",
        lambda: biased(dense([30, 24, 24, 2], between=nn.LayerNorm), ("1", -9.0)),
        adagrad(),
        fault="a layer norm's biases -9 before ReLU",
        steps=200,
        location=("net.1", "net.2"),
        half="report",
    ),
    on_images(
        "dead_batch_norm",
        lambda: biased(CNN(channels=(8, 8)), ("layers.0.norm", -20.0)),
        sgd(0.05, momentum=0.9),
        fault="a batch norm's biases -20 in a CNN",
        steps=120,
        half="report",
    ),
    on_rows(
        "dead_feed_forward",
        lambda: biased(PostNorm(2), ("layers.1.linear1", -30.0)),
        adam(1e-3),
        fault="biases of -30 in a transformer layer",
        steps=120,
        location=("net.layers.1.linear1", "net.layers.1"),
        half="report",
    ),
    on_images(
        "mostly_dead_channels",
        mostly_dead_channels,
        adam(3e-3),
        fault="biases of -40 of six channels in eight",
        steps=120,
        half="report",
    ),
    on_bags(
        "dead_grams",
        lambda: Grams(data.VOCABULARY, 3, biased(nn.Sequential(nn.Linear(24, 24), nn.ReLU()), ("0", -15.0))),
        adam(5e-3),
        fault="biases of -15 over embeddings",
        steps=150,
        location=("net.head.0", "net.head.1"),
        half="report",
    ),
    on_wine(
        "wine_offset",
        lambda: initialized(dense([13, 24, 24, 3]), he()),
        sgd(0.02),
        fault="features minus 300",
        data=lambda: data.make(data.wine().inputs - 300, data.wine().targets),
        steps=200,
        half="report",
    ),
    on_iris(
        "biases_of_both_signs",
        biases_of_both_signs,
        sgd(0.02),
        fault="biases of ±9 before tanh",
        steps=200,
        half="report",
    ),
    on_bags(
        "reader_saturated",
        lambda: Reader(data.VOCABULARY, 3, nn.RNN, 200.0),
        sgd(0.05),
        fault="embeddings × 200 into a tanh RNN",
        steps=150,
        half="report",
    ),
    on_bags(
        "sharp_pool",
        lambda: AttentionPool(data.VOCABULARY, 3, 1e4),
        adam(1e-3),
        fault="attention logits × 10000",
        steps=150,
        half="report",
    ),
]
