"""Runs that learn, to report on: written without looking at the detector, and none of its rules was chosen by them."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection import data
from detection.healthy import zero_output
from detection.held_out_networks import (
    AttentionPool,
    Concatenating,
    Gated,
    Grams,
    Maxout,
    Mixer,
    PostNorm,
    Reader,
    Reservoir,
    SqueezeExcite,
    Variational,
)
from detection.more_healthy import adagrad, adamw, biased, cancer, diabetes, fp16, gpt, pixels, rmsprop, wine
from detection.more_networks import Apply, ConvNet, Encoder, ResidualConvNet, Stacked
from detection.networks import SparseBag, dense, he, initialized, xavier
from detection.recipe import Adversarial, Experiment, Recipe, adam, classes, numbers, sgd
from lightning_gradtools.tasks.networks import ResidualMLP


def half_image() -> data.Data:
    """The upper half of an image, of which the lower one is to be told."""
    return data.make(pixels().inputs[:, :32], pixels().inputs[:, 32:])


def parity() -> data.Data:
    """Is the digit odd?"""
    return data.make(data.digits().inputs, data.digits().targets % 2)


def wine_code() -> data.Data:
    """13 features to be given back."""
    return data.make(wine().inputs, wine().inputs)


def petal() -> data.Data:
    """The width of a petal from the flower's other three numbers."""
    return data.make(data.iris().inputs[:, :3], data.iris().inputs[:, 3:])


def few_digits() -> data.Data:
    """48 images: a network that works learns them by heart."""
    return data.make(data.digits().inputs[:48], data.digits().targets[:48])


def arc(samples: int = 1024) -> data.Data:
    """Points along a parabola, for a generator to imitate; the targets are not used."""
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.rand(samples, 1, generator=generator) - 1
    points = torch.cat([x, 2 * x**2 - 2], dim=1) + 0.05 * torch.randn(samples, 2, generator=generator)
    return data.Data(points, points, float(points.var(dim=0).sum()))


def falling(steps: int, power: float) -> Any:
    """Return a factor of the learning rate that falls to 0 and stays there."""
    return lambda step: max(0.0, 1 - step / steps) ** power


def late_warmup(step: int) -> float:
    """Ten steps at a rate of 0, then a slow rise."""
    return min(1.0, max(0.0, (step - 9) / 60))


def wrong_labels(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
    return (x, 1 - y) if step == 110 else (x, y)


def bright(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
    return (x * 15 + 5, y) if step == 60 else (x, y)


def straight_through(h: Tensor) -> Tensor:
    """A number rounded to halves, with the gradient of the number itself."""
    return h + ((2 * h).round() / 2 - h).detach()


def log_cosh(output: Tensor, target: Tensor) -> Tensor:
    apart = output - target
    return (apart + F.softplus(-2 * apart) - math.log(2)).mean()


def zero_branches(net: nn.Module) -> nn.Module:
    """Return the network with the last layer of each residual branch at zero."""
    for block in net.blocks:  # type: ignore[union-attr]
        parts = (block.mix, block.dense[-1]) if hasattr(block, "mix") else (block[-1],)
        for part in parts:
            nn.init.zeros_(part.weight)
            nn.init.zeros_(part.bias)
    return net


def frozen_middle() -> nn.Module:
    """Three hidden layers of which the second keeps its random weights."""
    net = dense([30, 32, 32, 32, 2], nn.Tanh)
    net.get_submodule("2").requires_grad_(False)
    return net


def siren() -> nn.Module:
    """Sines as activations (Sitzmann et al. 2020, arXiv:2006.09661)."""
    return initialized(dense([2, 32, 32, 32, 1], lambda: Apply(torch.sin)), xavier(1.4))


class NormalisedAdversarial(Adversarial):
    """A generator with batch norm, and a discriminator of one wide hidden layer."""

    def __init__(self, lr: tuple[float, float]) -> None:
        super().__init__(lr)
        self.pair.generator = dense([4, 32, 32, 2], between=nn.BatchNorm1d)
        self.pair.discriminator = dense([2, 96, 1], nn.ELU)


class WithRandomCode(Experiment):
    """An image to be given back through a random code, and the code's distance to the normal distribution."""

    def __init__(self) -> None:
        super().__init__(Variational(), adam(5e-3), lambda o, t: F.mse_loss(o[:, :64], t), self.bound)

    @staticmethod
    def bound(output: Tensor, target: Tensor) -> Tensor:
        mean, log_variance = output[:, 64:].chunk(2, dim=1)
        apart = (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        return F.mse_loss(output[:, :64], target) + 1e-3 * apart

    def measured(self, net: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        objective, trained, output = super().measured(net, x, y)
        return objective, trained, None if output is None else output[:, :64]


Make = Callable[..., Callable[[], Experiment]]


def _recipe(
    name: str,
    net: Any,
    optimizer: Any,
    *,
    data: Callable[[], data.Data],
    twin: str,
    make: Make = classes,
    **more: Any,
) -> Recipe:
    settings = {key: more.pop(key) for key in ("loss", "schedule", "corrupt") if key in more}
    return Recipe(name, make(net, optimizer, **settings), data, twin, **more)


on_wine = partial(_recipe, data=wine, twin="wine", batch_size=16)
on_iris = partial(_recipe, data=data.iris, twin="iris", batch_size=16)
on_cancer = partial(_recipe, data=cancer, twin="breast_cancer", batch_size=32)
on_diabetes = partial(_recipe, data=diabetes, twin="diabetes", batch_size=32, make=numbers)
on_petal = partial(_recipe, data=petal, twin="petal", batch_size=16, make=numbers)
on_waves = partial(_recipe, data=data.waves, twin="waves", make=numbers)
on_digits = partial(_recipe, data=data.digits, twin="mlp_adam", steps=200)
on_parity = partial(_recipe, data=parity, twin="parity", steps=250)
on_halves = partial(_recipe, data=half_image, twin="half_image", make=numbers, steps=200)
on_images = partial(_recipe, data=data.digit_images, twin="cnn_plain", batch_size=32, steps=150)
on_rows = partial(_recipe, data=data.digit_rows, twin="attention", steps=150)
on_recall = partial(_recipe, data=data.recall, twin="recall", steps=200)
on_bags = partial(_recipe, data=data.bags, twin="sparse_embedding", steps=250)
reconstructing = partial(_recipe, data=data.digit_reconstruction, twin="autoencoder", make=numbers)
coding_wine = partial(_recipe, data=wine_code, twin="wine_code", batch_size=16, make=numbers)

HELD_OUT_HEALTHY = [
    # What others are compared with, beside the references of the other half
    on_halves("half_image", lambda: dense([32, 64, 64, 32], nn.SiLU), adam(3e-3)),
    on_parity("parity", lambda: dense([64, 48, 24, 2]), adam(2e-3)),
    coding_wine("wine_code", lambda: dense([13, 24, 6, 24, 13], nn.ELU), adam(5e-3)),
    on_petal("petal", lambda: dense([3, 16, 1], nn.Tanh), sgd(0.05, momentum=0.9)),
    # Of kinds that are known to set detectors off
    on_images(
        "sparse_conv_net",
        lambda: biased(initialized(ConvNet([32, 8]), he()), ("convolutions.0", -0.8)),
        adam(5e-3),
        hard=True,
    ),
    reconstructing(
        "overcomplete_code",
        lambda: biased(initialized(dense([64, 160, 64]), he()), ("0", -0.2)),
        adam(3e-3),
        hard=True,
    ),
    on_diabetes(
        "batch_norm_regression", lambda: dense([10, 24, 24, 1], nn.Tanh, nn.BatchNorm1d), adam(1e-2), hard=True
    ),
    on_parity("gated_layer_norm", lambda: Gated(64, 2, 4), adamw(3e-3), hard=True),
    on_rows("post_norm", lambda: PostNorm(2, "gelu"), adam(3e-3), hard=True),
    on_rows("gelu_mixer", lambda: Mixer(3), adam(5e-3), hard=True),
    on_images("gelu_conv_net", lambda: ConvNet([8, 12], F.gelu), sgd(0.05, momentum=0.9), hard=True),
    on_cancer("frozen_middle", frozen_middle, sgd(0.05, momentum=0.9), hard=True),
    on_rows("reservoir", Reservoir, adagrad(0.02), twin="rnn", hard=True),
    on_images(
        "zero_conv_branches",
        lambda: zero_branches(ResidualConvNet(4, norm=False)),
        adam(1e-2),
        steps=200,
        hard=True,
    ),
    on_rows("zero_encoder_branches", lambda: zero_branches(Encoder(3)), adam(5e-3), steps=120, hard=True),
    on_bags("sparse_adagrad", lambda: SparseBag(data.VOCABULARY, 8, 3), adagrad(0.2), hard=True),
    reconstructing(
        "falling_to_zero",
        lambda: dense([64, 64, 16, 64], nn.SiLU),
        adamw(1e-2),
        schedule=falling(280, 3),
        hard=True,
    ),
    on_iris(
        "zero_rate_at_the_end",
        lambda: dense([4, 24, 3]),
        rmsprop(2e-2),
        schedule=falling(200, 2),
        hard=True,
    ),
    on_wine("late_warmup", lambda: dense([13, 24, 3], nn.SiLU), adam(1e-2), schedule=late_warmup, hard=True),
    _recipe(
        "learnt_by_heart",
        lambda: dense([64, 96, 96, 10], nn.Tanh),
        adam(5e-3),
        data=few_digits,
        twin="learnt_by_heart",
        batch_size=16,
        hard=True,
    ),
    on_petal(
        "exact_regression",
        lambda: dense([3, 32, 1], nn.SiLU),
        adam(1e-2),
        data=lambda: data.make(petal().inputs, petal().inputs[:, :1] - petal().inputs[:, 2:]),
        twin="exact_regression",
        schedule=falling(260, 2),
        hard=True,
    ),
    gpt(
        "gpt_bf16",
        adamw(5e-3),
        trainer=lambda: {"precision": "bf16-mixed"},
        hard=True,
    ),
    reconstructing(
        "fp16_autoencoder",
        lambda: dense([64, 48, 16, 48, 64], nn.ELU),
        adam(5e-3),
        trainer=fp16(2.0**25, 50),
        steps=250,
        hard=True,
    ),
    on_iris("fp16_iris", lambda: dense([4, 24, 24, 3], nn.SiLU), sgd(0.2), trainer=fp16(2.0**30, 20), hard=True),
    on_recall(
        "accumulation_of_3",
        lambda: Stacked(nn.GRU, 2, 4, 1),
        adam(2e-2),
        batch_size=16,
        steps=120,
        trainer=lambda: {"accumulate_grad_batches": 3},
        hard=True,
    ),
    on_petal("batch_of_two_regression", lambda: dense([3, 16, 1], nn.LeakyReLU), adam(3e-3), batch_size=2, hard=True),
    on_cancer(
        "batch_of_wrong_labels",
        lambda: dense([30, 24, 24, 2], nn.SiLU),
        sgd(0.1, momentum=0.8),
        corrupt=wrong_labels,
        hard=True,
    ),
    on_images(
        "bright_batch",
        lambda: ConvNet([8, 8], F.elu),
        adamw(5e-3),
        corrupt=bright,
        trainer=lambda: {"gradient_clip_val": 1.0},
        hard=True,
    ),
    on_halves("linear_halves", lambda: nn.Linear(32, 32), sgd(0.5, momentum=0.9), hard=True),
    on_iris(
        "linear_chain",
        lambda: nn.Sequential(nn.Linear(4, 12), nn.Linear(12, 12), nn.Linear(12, 3)),
        sgd(0.05, momentum=0.9),
        hard=True,
    ),
    on_wine(
        "deep_residual_wine",
        lambda: ResidualMLP(13, 3, width=16, depth=20, activation="gelu"),
        adam(2e-3),
        steps=150,
        hard=True,
    ),
    Recipe("gan_arc", lambda: NormalisedAdversarial((2e-3, 2e-3)), arc, "gan_arc", steps=600, hard=True),
    # Further ones
    Recipe("random_code", WithRandomCode, data.digit_reconstruction, "autoencoder"),
    on_waves("siren", siren, adam(3e-3)),
    on_images("squeeze_excite", SqueezeExcite, adam(1e-2)),
    on_parity(
        "straight_through",
        lambda: nn.Sequential(nn.Linear(64, 48), nn.Tanh(), Apply(straight_through), nn.Linear(48, 2)),
        adam(3e-3),
    ),
    on_wine("maxout", lambda: Maxout(13, 3), sgd(0.05)),
    on_bags(
        "both_directions",
        lambda: Reader(data.VOCABULARY, 3, partial(nn.LSTM, bidirectional=True)),
        adam(2e-2),
    ),
    on_bags("three_grams", lambda: Grams(data.VOCABULARY, 3, nn.Sequential(nn.Linear(24, 24), nn.SiLU())), adam(1e-2)),
    on_bags("attention_pool", lambda: AttentionPool(data.VOCABULARY, 3), adam(2e-2)),
    on_cancer("concatenating", lambda: Concatenating(30, 2, 10), sgd(0.05, momentum=0.9)),
    on_petal("log_cosh", lambda: dense([3, 24, 24, 1], nn.Softsign), adamw(5e-3), loss=log_cosh),
    on_digits(
        "nadam_lr_drop",
        lambda: zero_output(dense([64, 96, 10], nn.GELU)),
        lambda parameters: torch.optim.NAdam(parameters, lr=5e-3),
        schedule=lambda step: 0.01 if step >= 140 else 1.0,
    ),
    on_iris(
        "small_features",
        lambda: dense([4, 16, 16, 3], nn.Tanh),
        adam(2e-2),
        data=lambda: data.scaled(data.iris(), 0.05),
    ),
]
