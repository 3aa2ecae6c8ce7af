"""Further runs with a fault that was put there. As in `sick.py`, whether it harmed the run is measured, not assumed.

They were held out at first: written without looking at the detector. They have been looked at since, together with
what it says of them, and now serve to choose by.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection import data
from detection.healthy import DIGITS
from detection.more_healthy import (
    adagrad,
    adamw,
    biased,
    cancer,
    diabetes,
    gpt,
    pixels,
    rmsprop,
    small_gpt,
    wine,
    with_targets,
)
from detection.more_networks import (
    Apply,
    Bag,
    ConvNet,
    Encoder,
    Experts,
    LowRank,
    ResidualConvNet,
    Stacked,
    Unrolled,
    UnusedLayer,
)
from detection.networks import FunctionalMLP, constant, dense, he, initialized, xavier
from detection.recipe import Adversarial, Recipe, adam, classes, cross_entropy, numbers, sgd


def _recipe(
    name: str,
    fault: str,
    net: Any,
    optimizer: Any,
    *,
    data: Callable[[], data.Data],
    twin: str,
    make: Any = classes,
    **more: Any,
) -> Recipe:
    settings = {key: more.pop(key) for key in ("loss", "schedule", "corrupt") if key in more}
    return Recipe(name, make(net, optimizer, **settings), data, twin, fault, **more)


on_wine = partial(_recipe, data=wine, twin="wine", batch_size=16)
on_iris = partial(_recipe, data=data.iris, twin="iris", batch_size=16)
on_cancer = partial(_recipe, data=cancer, twin="breast_cancer", batch_size=32)
on_diabetes = partial(_recipe, data=diabetes, twin="diabetes", batch_size=32, make=numbers)
on_waves = partial(_recipe, data=data.waves, twin="waves", make=numbers)
on_digits = partial(_recipe, data=data.digits, twin="mlp_adam", steps=200)
on_pixels = partial(_recipe, data=pixels, twin="pixels", steps=200)
on_images = partial(_recipe, data=data.digit_images, twin="cnn_plain", batch_size=32, steps=150)
on_rows = partial(_recipe, data=data.digit_rows, twin="lstm", steps=150)
on_recall = partial(_recipe, data=data.recall, twin="recall", steps=150)
on_bags = partial(_recipe, data=data.bags, twin="sparse_embedding", steps=200)
reconstructing = partial(_recipe, data=data.digit_reconstruction, twin="autoencoder", make=numbers, steps=200)


def at(step: int, change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Any:
    """Return what changes the batch of one step."""
    return lambda x, y, now: change(x, y) if now == step else (x, y)


def first_is(value: float) -> Callable[[Tensor], Tensor]:
    """Return what replaces the first number of a batch."""

    def change(x: Tensor) -> Tensor:
        x = x.clone()
        x.view(-1)[0] = value
        return x

    return change


def swapped(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets shuffled apart, as two loaders that each shuffle do."""
    return x[torch.randperm(len(x))], y


def distances(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy plus distances between outputs: the root of a sample's distance to itself has no gradient."""
    apart = (output[:, None] - output[None]).square().sum(dim=-1).sqrt()
    return cross_entropy(output, target) - 1e-3 * apart.mean()


def entropy_by_hand(output: Tensor, target: Tensor) -> Tensor:
    """Two logarithms of probabilities that reach exactly 0 and 1."""
    p = output.softmax(dim=-1)[:, 1]
    t = target.to(p.dtype)
    return -(t * p.log() + (1 - t) * (1 - p).log()).mean()


def layers(features: int, width: int, depth: int, outputs: int, activation: Any) -> nn.Module:
    return dense([features] + [width] * depth + [outputs], activation)


def scaled_layer(net: nn.Module, path: str, factor: float) -> nn.Module:
    """Return the network with the weights of one layer multiplied."""
    with torch.no_grad():
        net.get_submodule(path).weight.mul_(factor)  # type: ignore[operator]
    return net


def after(net: Any, function: Callable[[Tensor], Tensor], place: int) -> nn.Module:
    """Return the sequence with a function put before one of its layers."""
    children = list(net.children())
    return nn.Sequential(*children[:place], Apply(function), *children[place:])


def detour(x: Tensor) -> Tensor:
    """Through NumPy and back, as a preprocessing step in the middle of a network does."""
    return torch.from_numpy(x.detach().numpy().copy())


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


def wide_embedding(scale: float) -> nn.Module:
    net = Bag(data.VOCABULARY, 3, lambda embedding, ids: embedding(ids))
    with torch.no_grad():
        net.embedding.weight.mul_(scale)
    return net


def no_grad_lookup(embedding: nn.Module, ids: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = embedding(ids)
    return found


def unit_length(h: Tensor) -> Tensor:
    """0 / 0 for a sample whose hidden units are all off."""
    return h / h.square().sum(dim=1, keepdim=True).sqrt()


MORE_SICK = [
    # Depth
    on_wine("wine_sigmoid_12", "12 sigmoid layers, RMSprop", lambda: layers(13, 24, 12, 3, nn.Sigmoid), rmsprop()),
    on_digits(
        "gelu_18",
        "18 GELU layers with torch's default weights, momentum",
        lambda: layers(64, 40, 18, 10, nn.GELU),
        sgd(0.05, momentum=0.9),
        steps=150,
    ),
    on_cancer(
        "cancer_tanh_20",
        "20 tanh layers with 0.4 of Glorot's weights",
        lambda: initialized(layers(30, 24, 20, 2, nn.Tanh), xavier(0.4)),
        sgd(0.05, momentum=0.5),
        steps=200,
    ),
    on_diabetes(
        "softsign_16",
        "16 softsign layers with 0.4 of Glorot's weights",
        lambda: initialized(layers(10, 24, 16, 1, nn.Softsign), xavier(0.4)),
        sgd(0.05),
    ),
    on_images(
        "conv_net_tiny",
        "4 functional convolutions with a twentieth of He's weights",
        lambda: initialized(ConvNet([8, 8, 8, 8]), he(0.05)),
        sgd(0.05, momentum=0.9),
    ),
    reconstructing(
        "autoencoder_sigmoid_deep",
        "7 sigmoid layers around a bottleneck",
        lambda: dense([64, 48, 32, 16, 8, 16, 32, 48, 64], nn.Sigmoid),
        adam(1e-3),
    ),
    on_rows(
        "rnn_stack",
        "6 recurrent layers with a third of the weights",
        lambda: Stacked(nn.RNN, 8, 10, 6, scale=0.3),
        sgd(0.1),
        steps=120,
    ),
    on_rows(
        "encoder_without_skips",
        "5 transformer blocks with neither skip connections nor norms",
        lambda: Encoder(5, residual=False, norm=False),
        adam(1e-3),
        twin="attention",
        steps=60,
    ),
    on_recall("short_memory", "recurrent gain 0.2 over 12 steps", lambda: Unrolled(2, 4, gain=0.2), sgd(0.1)),
    on_recall(
        "growing_state",
        "a linear recurrence of gain 2.2",
        lambda: Unrolled(2, 4, gain=2.2, activation=lambda s: s),
        sgd(0.05),
    ),
    # Initial weights and missing normalisation
    on_images(
        "conv_net_zero", "every weight 0 in a CNN", lambda: initialized(ConvNet([8, 8]), constant(0.0)), sgd(0.1)
    ),
    on_wine(
        "wine_constant",
        "every weight 0.3, tanh",
        lambda: initialized(dense([13, 24, 24, 3], nn.Tanh), constant(0.3)),
        sgd(0.05),
    ),
    reconstructing(
        "autoencoder_constant",
        "every weight 0.02",
        lambda: initialized(dense([64, 32, 64], nn.ELU), constant(0.02)),
        sgd(0.5),
    ),
    on_diabetes(
        "huge_output_layer",
        "an output layer with 300 times the weights, a small learning rate",
        lambda: scaled_layer(dense([10, 32, 1], nn.Tanh), "2", 300.0),
        adam(1e-3),
    ),
    on_bags("huge_embedding", "embeddings times 2000", lambda: wide_embedding(2000.0), adam(1e-3)),
    on_images(
        "residual_conv_no_norm",
        "8 residual convolution blocks of gain 2 without norm",
        lambda: ResidualConvNet(8, norm=False, gain=2.0),
        sgd(0.01),
        steps=100,
    ),
    on_cancer(
        "selu_huge",
        "SELU with 4 times Glorot's weights, 12 layers",
        lambda: initialized(layers(30, 24, 12, 2, nn.SELU), xavier(4.0)),
        sgd(0.01),
    ),
    on_iris(
        "cubes",
        "6 layers of cubes",
        lambda: initialized(layers(4, 16, 6, 3, lambda: Apply(lambda h: h**3)), xavier()),
        sgd(0.05),
    ),
    gpt("gpt_huge_std", sgd(0.3), lambda: small_gpt(init_std=2.0), fault="embeddings and weights with deviation 2"),
    # Inputs and targets
    on_wine(
        "wine_raw_sigmoid",
        "features up to 1680 into sigmoids",
        lambda: dense([13, 24, 24, 3], nn.Sigmoid),
        adam(1e-3),
        data=lambda: data.unscaled_table("wine"),
    ),
    on_diabetes(
        "targets_in_thousands",
        "targets × 1000, SGD",
        lambda: dense([10, 24, 1], nn.GELU),
        sgd(0.05),
        data=lambda: with_targets(diabetes(), 1e3, 0.0),
    ),
    on_diabetes(
        "targets_in_thousands_adagrad",
        "targets × 1000, Adagrad",
        lambda: dense([10, 24, 1]),
        adagrad(),
        data=lambda: with_targets(diabetes(), 1e3, 0.0),
    ),
    on_digits(
        "inputs_divided",
        "inputs ÷ 10000",
        lambda: dense([64, 48, 48, 10], nn.SiLU),
        sgd(0.1),
        data=lambda: data.scaled(data.digits(), 1e-4),
    ),
    on_wine(
        "wine_shuffled", "inputs shuffled apart from labels", lambda: dense([13, 16, 3]), sgd(0.1), corrupt=swapped
    ),
    # Step size
    on_wine("wine_adamw_lr", "AdamW with lr 1.5", lambda: dense([13, 16, 16, 3], nn.Tanh), adamw(1.5)),
    on_diabetes(
        "diabetes_rmsprop_lr", "RMSprop with lr 0.5", lambda: dense([10, 24, 24, 1], nn.LeakyReLU), rmsprop(0.5)
    ),
    on_cancer(
        "noisy_logistic_lr",
        "a linear model with lr 30, some labels wrong",
        lambda: nn.Linear(30, 2),
        sgd(30.0),
        data=lambda: data.flipped_classes("breast_cancer"),
        twin="flipped_classes",
    ),
    on_diabetes(
        "nesterov_edge",
        "lr 0.2 with Nesterov momentum 0.97",
        lambda: dense([10, 24, 1], nn.Tanh),
        sgd(0.2, momentum=0.97, nesterov=True),
    ),
    on_waves(
        "growing_lr",
        "a warm-up that never ends",
        lambda: dense([2, 32, 32, 1], nn.Tanh),
        adam(1e-2),
        schedule=lambda step: 1.03**step,
    ),
    on_iris("iris_adagrad_lr", "Adagrad with lr 20", lambda: dense([4, 16, 16, 3]), adagrad(20.0)),
    on_images("conv_net_adam_lr", "Adam with lr 0.3", lambda: ConvNet([8, 8]), adam(0.3)),
    on_rows("gru_lr", "Adam with lr 3 into a GRU", lambda: Stacked(nn.GRU, 8, 10, 1), adam(3.0)),
    on_rows("encoder_lr", "RMSprop with lr 0.1", lambda: Encoder(1), rmsprop(0.1), twin="attention", steps=120),
    on_cancer("rmsprop_lr_tiny", "RMSprop with lr 1e-8", lambda: dense([30, 24, 2], nn.ELU), rmsprop(1e-8)),
    on_wine(
        "schedule_collapses",
        "lr falls by half at each step",
        lambda: dense([13, 16, 3], nn.GELU),
        sgd(0.1),
        schedule=lambda step: 0.5**step,
    ),
    on_iris("adam_huge_eps", "Adam with eps 1000", lambda: dense([4, 16, 3]), adam(1e-2, eps=1e3)),
    on_waves(
        "low_eps",
        "eps 0 and a short second moment with a large lr",
        lambda: dense([2, 32, 32, 1], nn.Tanh),
        adam(0.2, eps=0.0, betas=(0.9, 0.5)),
    ),
    Recipe(
        "gan_lr_01",
        lambda: Adversarial(lr=(0.1, 0.1)),
        data.clusters,
        "gan_clusters",
        "both learning rates 0.1",
        steps=600,
    ),
    Recipe(
        "gan_still_generator",
        lambda: Adversarial(lr=(1e-7, 2e-3)),
        data.clusters,
        "gan_clusters",
        "the generator's learning rate 1e-7",
        steps=600,
    ),
    # Loss and regularisation
    on_waves(
        "flipped_absolute_error",
        "the sign of the loss",
        lambda: dense([2, 32, 1]),
        adam(1e-3),
        loss=lambda o, t: -F.l1_loss(o, t),
    ),
    gpt("gpt_l2", sgd(0.5, weight_decay=0.3), fault="L2 of 0.3"),
    on_digits("adamw_decay", "weight decay of 300, AdamW", lambda: dense(DIGITS), adamw(2e-3, weight_decay=300.0)),
    on_digits(
        "smoothed_away",
        "label smoothing of 1",
        lambda: dense([64, 48, 48, 10], nn.SiLU),
        adam(),
        loss=lambda o, t: F.cross_entropy(o, t, label_smoothing=1.0),
    ),
    # Not numbers
    on_pixels(
        "log_of_pixels", "log of pixels that are 0", lambda: nn.Sequential(Apply(torch.log), dense(DIGITS)), adam()
    ),
    on_wine(
        "nan_at_80",
        "NaN in the batch of step 80",
        lambda: dense([13, 24, 3], nn.Tanh),
        rmsprop(),
        corrupt=at(80, lambda x, y: (first_is(float("nan"))(x), y)),
    ),
    on_diabetes(
        "inf_target_at_150",
        "an infinite target in the batch of step 150",
        lambda: dense([10, 24, 1], nn.ELU),
        adam(),
        corrupt=at(150, lambda x, y: (x, first_is(float("inf"))(y))),
    ),
    on_wine(
        "distance_to_itself",
        "sqrt(0) in the loss, whose gradient is NaN",
        lambda: dense([13, 24, 3]),
        adam(),
        loss=distances,
    ),
    on_pixels(
        "adam_no_eps",
        "eps 0, where the weights of empty pixels have no gradient",
        lambda: dense([64, 48, 10]),
        adam(eps=0.0),
        location=("net.0",),
    ),
    on_digits(
        "unit_length",
        "hidden units divided by their norm, now and then 0 / 0",
        lambda: nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.6), Apply(unit_length), nn.Linear(16, 10)),
        adam(),
        location=("net.3", "net.2", "net.0"),
    ),
    on_diabetes(
        "exponential_output",
        "exp as the output, targets from 25 to 346",
        lambda: nn.Sequential(dense([10, 24, 1], nn.SiLU), Apply(torch.exp)),
        sgd(1e-3),
        data=lambda: data.table("diabetes", False),
    ),
    on_cancer(
        "entropy_by_hand",
        "log(1 - p) where p has reached 1",
        lambda: dense([30, 24, 2]),
        sgd(2.0),
        loss=entropy_by_hand,
    ),
    # Gradients that are not there
    on_iris(
        "data_of_hidden",
        "the hidden layer's .data",
        lambda: after(dense([4, 24, 24, 3]), lambda h: h.data, 2),
        adam(1e-2),
        location=("net.0",),
    ),
    reconstructing(
        "rounded_code",
        "a code that is rounded to quarters",
        lambda: after(dense([64, 32, 12, 64], nn.Tanh), lambda h: (4 * h).round() / 4, 4),
        adam(3e-3),
        location=("net.0", "net.2"),
    ),
    on_digits(
        "hard_gate",
        "a gate that takes the argmax",
        lambda: Experts(64, 10, hard=True),
        adam(5e-3),
        location=("net.gate",),
    ),
    on_bags(
        "no_grad_lookup",
        "embeddings looked up under no_grad",
        lambda: Bag(data.VOCABULARY, 3, no_grad_lookup),
        adam(5e-3),
        location=("net.embedding",),
    ),
    on_images(
        "detour_through_numpy",
        "a convolution's output through NumPy and back",
        lambda: nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), Apply(detour), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10)
        ),
        adam(5e-3),
        location=("net.0",),
    ),
    on_rows(
        "unused_layer",
        "a recurrent layer whose output nothing reads",
        UnusedLayer,
        adam(5e-3),
        location=("net.backwards",),
    ),
    on_digits(
        "low_rank_zero",
        "both factors of a correction start at zero",
        lambda: LowRank(both_zero=True),
        adam(5e-3),
        location=("net.down", "net.up"),
    ),
    on_rows(
        "detached_blocks",
        "each transformer block's output detached",
        lambda: Encoder(2, between=Tensor.detach),
        adam(5e-3),
        twin="attention",
    ),
    # Dead and saturated units
    on_cancer(
        "dead_torch_relu",
        "biases of -40 before torch.relu",
        lambda: biased(FunctionalMLP([30, 24, 24, 2], torch.relu), ("hidden.0", -40.0)),
        rmsprop(),
        location=("net.hidden.0",),
    ),
    on_images(
        "dead_functional_conv",
        "biases of -25 of a convolution before F.relu",
        lambda: biased(ConvNet([8, 8]), ("convolutions.0", -25.0)),
        sgd(0.05, momentum=0.9),
        location=("net.convolutions.0",),
    ),
    on_digits("mostly_dead", "two thirds of a layer's biases -30", mostly_dead, adam(), location=("net.0", "net.1")),
    on_pixels(
        "negative_weights",
        "negative weights on inputs that are not",
        negative_weights,
        sgd(0.1),
        location=("net.0", "net.1"),
    ),
    on_rows(
        "dead_recurrence",
        "biases of -15 of a ReLU RNN",
        lambda: relu_recurrence(-15.0),
        adam(1e-3),
        location=("net.cells.0",),
    ),
    gpt(
        "gpt_dead_block",
        adam(1e-2),
        lambda: biased(small_gpt(activation="relu"), ("blocks.0.mlp.expand", -10.0)),
        fault="biases of -10 in the feed-forward layer",
        location=("net.blocks.0.mlp.expand", "net.blocks.0.mlp.activation"),
    ),
    on_cancer(
        "killed_by_a_batch_at_60",
        "one batch × 10000, momentum",
        lambda: dense([30, 24, 24, 2]),
        sgd(0.05, momentum=0.9),
        corrupt=at(60, lambda x, y: (x * 1e4, y)),
    ),
    on_diabetes("killed_regression", "lr 1 with ReLU", lambda: dense([10, 24, 24, 1]), sgd(1.0)),
    on_digits(
        "tanh_biases",
        "biases of 6 before tanh",
        lambda: biased(dense([64, 48, 48, 10], nn.Tanh), ("0", 6.0)),
        sgd(0.05),
        location=("net.0", "net.1"),
    ),
    reconstructing(
        "saturated_code",
        "biases of 10 before a sigmoid bottleneck",
        saturated_code,
        adam(1e-3),
        location=("net.2", "net.3"),
    ),
    on_rows("large_attention", "queries and keys times 60", large_attention, sgd(0.02), twin="attention"),
    on_rows(
        "rnn_input_weights",
        "every weight of a tanh RNN times 60",
        lambda: Stacked(nn.RNN, 8, 10, 1, scale=60.0),
        adam(1e-3),
        twin="rnn",
    ),
]
