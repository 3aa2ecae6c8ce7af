"""Runs with a fault that was put there, to report on.

Written without looking at the detector, and none of its rules was chosen by them. As in `sick.py`, whether the fault
harmed a run is measured, not assumed.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from detection import data
from detection.held_out_healthy import (
    Make,
    NormalisedAdversarial,
    arc,
    half_image,
    parity,
    petal,
)
from detection.held_out_networks import (
    Adding,
    AttentionPool,
    Codebook,
    FirstStates,
    Grams,
    Mixer,
    PostNorm,
    Reader,
)
from detection.more_healthy import (
    adagrad,
    adamw,
    biased,
    cancer,
    diabetes,
    gpt,
    pixels,
    rmsprop,
    short_text,
    small_gpt,
    wine,
)
from detection.more_networks import Apply, ConvNet, Stacked, Unrolled
from detection.more_sick import layers, scaled_layer
from detection.networks import constant, dense, he, initialized, xavier
from detection.recipe import Recipe, adam, classes, numbers, sgd
from lightning_gradtools.tasks.networks import CNN


def _recipe(
    name: str,
    fault: str,
    net: Any,
    optimizer: Any,
    *,
    data: Callable[[], data.Data],
    twin: str,
    make: Make = classes,
    **more: Any,
) -> Recipe:
    settings = {key: more.pop(key) for key in ("loss", "schedule", "corrupt") if key in more}
    return Recipe(name, make(net, optimizer, **settings), data, twin, fault, **more)


on_wine = partial(_recipe, data=wine, twin="wine", batch_size=16, steps=200)
on_iris = partial(_recipe, data=data.iris, twin="iris", batch_size=16, steps=200)
on_cancer = partial(_recipe, data=cancer, twin="breast_cancer", batch_size=32, steps=200)
on_diabetes = partial(_recipe, data=diabetes, twin="diabetes", batch_size=32, make=numbers, steps=200)
on_petal = partial(_recipe, data=petal, twin="petal", batch_size=16, make=numbers, steps=200)
on_waves = partial(_recipe, data=data.waves, twin="waves", make=numbers, steps=200)
on_digits = partial(_recipe, data=data.digits, twin="mlp_adam", steps=150)
on_parity = partial(_recipe, data=parity, twin="parity", steps=150)
on_halves = partial(_recipe, data=half_image, twin="half_image", make=numbers, steps=150)
on_images = partial(_recipe, data=data.digit_images, twin="cnn_plain", batch_size=32, steps=120)
on_rows = partial(_recipe, data=data.digit_rows, twin="attention", steps=120)
on_recall = partial(_recipe, data=data.recall, twin="recall", steps=150)
on_bags = partial(_recipe, data=data.bags, twin="sparse_embedding", steps=150)
reconstructing = partial(_recipe, data=data.digit_reconstruction, twin="autoencoder", make=numbers, steps=150)


def positive(weight: Tensor) -> Tensor:
    """Weights between 0 and 1."""
    return nn.init.uniform_(weight)


def orthogonal(gain: float) -> Callable[[Tensor], Tensor]:
    return lambda weight: nn.init.orthogonal_(weight, gain)


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


def step_function(h: Tensor) -> Tensor:
    return (h > 0).to(h.dtype)


def standardised_by_hand(x: Tensor) -> Tensor:
    """0 / 0 for pixels that are the same in the whole batch."""
    return (x - x.mean(dim=0)) / x.std(dim=0)


def flipping(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Labels that a loader mixes up for 20 steps out of 40."""
    return (x, 1 - y) if step // 20 % 2 else (x, y)


def ignored(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """A batch all of whose labels are left out: a mean over nothing."""
    return (x, torch.full_like(y, -100)) if step == 75 else (x, y)


def squared_logarithms(output: Tensor, target: Tensor) -> Tensor:
    """Squared error of logarithms, for numbers that are not all positive."""
    return (torch.log1p(output) - torch.log1p(target)).square().mean()


HELD_OUT_SICK = [
    # Depth
    on_iris(
        "iris_tanh_16",
        "16 tanh layers with 0.4 of Glorot's weights, momentum",
        lambda: initialized(layers(4, 20, 16, 3, nn.Tanh), xavier(0.4)),
        sgd(0.05, momentum=0.9),
    ),
    on_rows("mixer_sigmoid", "6 sigmoid mixer layers without skips", lambda: Mixer(6, nn.Sigmoid, False), adam(1e-3)),
    on_waves(
        "siren_small",
        "8 sine layers with a quarter of Glorot's weights",
        lambda: initialized(layers(2, 32, 8, 1, lambda: Apply(torch.sin)), xavier(0.25)),
        sgd(0.05),
    ),
    on_parity(
        "adding_48",
        "48 residual ELU blocks of gain 1.5 without norm",
        lambda: Adding(64, 2, 48, nn.ELU, 1.5),
        sgd(0.01, momentum=0.9),
        steps=100,
    ),
    on_diabetes(
        "adding_24",
        "24 residual ReLU blocks of gain 2 without norm, Adam",
        lambda: Adding(10, 1, 24, nn.ReLU, 2.0),
        adam(1e-3),
    ),
    on_cancer(
        "sinh_6",
        "6 layers of sinh",
        lambda: initialized(layers(30, 24, 6, 2, lambda: Apply(torch.sinh)), xavier(1.5)),
        sgd(0.01),
    ),
    on_rows(
        "relu_loop",
        "a ReLU recurrence of gain 6",
        lambda: Unrolled(8, 10, gain=6.0, activation=torch.relu),
        sgd(0.05),
        twin="rnn",
    ),
    # Initial weights
    on_wine(
        "orthogonal_gain_4",
        "8 leaky layers of orthogonal weights of gain 4",
        lambda: initialized(layers(13, 24, 8, 3, nn.LeakyReLU), orthogonal(4.0)),
        adam(1e-3),
    ),
    on_digits(
        "positive_weights",
        "weights between 0 and 1, GELU",
        lambda: initialized(layers(64, 48, 4, 10, nn.GELU), positive),
        rmsprop(1e-3),
    ),
    on_iris(
        "iris_all_equal",
        "every weight -0.1, GELU",
        lambda: initialized(dense([4, 16, 16, 3], nn.GELU), constant(-0.1)),
        adagrad(),
    ),
    on_petal(
        "far_output",
        "an output bias of 40 with a small learning rate",
        lambda: biased(dense([3, 16, 1], nn.SiLU), ("2", 40.0)),
        adam(5e-3),
    ),
    gpt(
        "gpt_far_output",
        adamw(1e-3),
        lambda: scaled_layer(small_gpt(tied=False), "output", 500.0),
        fault="500 times the weights of the output layer",
    ),
    # Inputs, targets, labels
    on_diabetes(
        "sigmoid_inputs_500",
        "inputs × 500 into sigmoids",
        lambda: dense([10, 24, 24, 1], nn.Sigmoid),
        sgd(0.01),
        data=lambda: data.scaled(diabetes(), 500),
    ),
    on_petal(
        "tanh_output",
        "a tanh output for targets around 5",
        lambda: nn.Sequential(dense([3, 16, 1], nn.Tanh), nn.Tanh()),
        adam(1e-2),
        data=lambda: data.make(petal().inputs, petal().targets + 5),
    ),
    on_rows(
        "rnn_inputs_300",
        "inputs × 300 into a tanh RNN",
        lambda: Stacked(nn.RNN, 8, 10, 2),
        sgd(0.02),
        data=lambda: data.scaled(data.digit_rows(), 300),
        twin="rnn",
    ),
    on_wine(
        "inputs_lost",
        "every feature 0",
        lambda: dense([13, 24, 24, 3], nn.SiLU),
        adam(),
        data=lambda: data.scaled(wine(), 0.0),
    ),
    on_cancer(
        "flipping_labels", "labels flipped half of the time", lambda: dense([30, 24, 2]), sgd(0.2), corrupt=flipping
    ),
    # Step size
    on_iris(
        "iris_linear_lr", "a linear model with lr 300 and momentum", lambda: nn.Linear(4, 3), sgd(300.0, momentum=0.9)
    ),
    on_waves(
        "adamax_lr",
        "Adamax with lr 2",
        lambda: dense([2, 32, 32, 1], nn.ELU),
        lambda parameters: torch.optim.Adamax(parameters, lr=2.0),
    ),
    on_halves(
        "halves_momentum", "lr 3 with momentum 0.99", lambda: dense([32, 48, 32], nn.Tanh), sgd(3.0, momentum=0.99)
    ),
    on_recall("recall_rmsprop_lr", "RMSprop with lr 0.5", lambda: Stacked(nn.LSTM, 2, 4, 1), rmsprop(0.5)),
    on_parity(
        "one_huge_step",
        "the learning rate × 1000 at step 50",
        lambda: initialized(dense([64, 48, 48, 2]), he()),
        sgd(0.05),
        schedule=lambda step: 1000.0 if step == 50 else 1.0,
    ),
    on_recall("gru_lr_tiny", "SGD with lr 1e-6", lambda: Stacked(nn.GRU, 2, 4, 2), sgd(1e-6)),
    Recipe(
        "gan_arc_lr",
        lambda: NormalisedAdversarial((0.3, 0.3)),
        arc,
        "gan_arc",
        "both learning rates 0.3",
        steps=600,
    ),
    # Loss
    on_digits(
        "softmax_over_batch",
        "softmax over the batch instead of the classes",
        lambda: nn.Sequential(dense([64, 48, 48, 10], nn.ELU), nn.Softmax(dim=0)),
        sgd(0.1),
    ),
    # Not numbers
    on_petal(
        "log_of_negative",
        "logarithms of targets below -1",
        lambda: dense([3, 16, 1]),
        adam(),
        loss=squared_logarithms,
    ),
    on_parity(
        "constant_pixels",
        "inputs divided by a deviation that is 0 for some",
        lambda: nn.Sequential(Apply(standardised_by_hand), dense([64, 32, 2], nn.Tanh)),
        adam(),
        data=lambda: data.make(pixels().inputs, parity().targets),
    ),
    on_wine(
        "inverse_of_tanh",
        "atanh of numbers that come to be above 1",
        lambda: nn.Sequential(nn.Linear(13, 24), nn.Tanh(), Apply(lambda h: torch.atanh(1.005 * h)), nn.Linear(24, 3)),
        sgd(0.1),
        location=("net.2", "net.1", "net.0"),
    ),
    _recipe(
        "gpt_ignored_batch",
        "a batch all of whose labels are left out",
        small_gpt,
        adam(1e-2),
        data=short_text,
        twin="small_gpt",
        batch_size=24,
        steps=150,
        corrupt=ignored,
    ),
    # Gradients that are not there
    on_wine(
        "step_function",
        "hidden units that are 0 or 1",
        lambda: nn.Sequential(nn.Linear(13, 24), nn.ELU(), nn.Linear(24, 24), Apply(step_function), nn.Linear(24, 3)),
        adam(5e-3),
        location=("net.0", "net.2"),
    ),
    reconstructing(
        "codebook",
        "a code that is looked up by argmin",
        Codebook,
        adam(5e-3),
        location=("net.encoder.0", "net.encoder.2"),
    ),
    on_rows(
        "first_states",
        "the output reads the lower of two LSTM layers",
        FirstStates,
        adam(5e-3),
        twin="lstm",
        location=("net.upper",),
    ),
    on_rows(
        "detached_mixing",
        "a mixer's branches detached before they are added",
        lambda: Mixer(2, branch=Tensor.detach),
        adam(5e-3),
    ),
    reconstructing(
        "clamped_output",
        "output biases of 8, clamped to 1",
        lambda: nn.Sequential(biased(dense([64, 32, 64]), ("2", 8.0)), Apply(lambda h: h.clamp(0, 1))),
        adam(3e-3),
    ),
    # Dead and saturated units
    on_cancer(
        "dead_layer_norm",
        "a layer norm's biases -9 before ReLU",
        lambda: biased(dense([30, 24, 24, 2], between=nn.LayerNorm), ("1", -9.0)),
        adagrad(),
        location=("net.1", "net.2"),
    ),
    on_images(
        "dead_batch_norm",
        "a batch norm's biases -20 in a CNN",
        lambda: biased(CNN(channels=(8, 8)), ("layers.0.norm", -20.0)),
        sgd(0.05, momentum=0.9),
    ),
    on_rows(
        "dead_feed_forward",
        "biases of -30 in a transformer layer",
        lambda: biased(PostNorm(2), ("layers.1.linear1", -30.0)),
        adam(1e-3),
        location=("net.layers.1.linear1", "net.layers.1"),
    ),
    on_images("mostly_dead_channels", "biases of -40 of six channels in eight", mostly_dead_channels, adam(3e-3)),
    on_bags(
        "dead_grams",
        "biases of -15 over embeddings",
        lambda: Grams(data.VOCABULARY, 3, biased(nn.Sequential(nn.Linear(24, 24), nn.ReLU()), ("0", -15.0))),
        adam(5e-3),
        location=("net.head.0", "net.head.1"),
    ),
    on_wine(
        "wine_offset",
        "features minus 300",
        lambda: initialized(dense([13, 24, 24, 3]), he()),
        sgd(0.02),
        data=lambda: data.make(wine().inputs - 300, wine().targets),
    ),
    on_iris("biases_of_both_signs", "biases of ±9 before tanh", biases_of_both_signs, sgd(0.02)),
    on_bags(
        "reader_saturated",
        "embeddings × 200 into a tanh RNN",
        lambda: Reader(data.VOCABULARY, 3, nn.RNN, 200.0),
        sgd(0.05),
    ),
    on_bags(
        "sharp_pool",
        "attention logits × 10000",
        lambda: AttentionPool(data.VOCABULARY, 3, 1e4),
        adam(1e-3),
    ),
]
