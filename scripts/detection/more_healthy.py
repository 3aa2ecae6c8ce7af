"""Further runs that learn.

They were held out at first: written without looking at the detector. They have been looked at since, together with
what it says of them, and now serve to choose by.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from detection import data
from detection.healthy import DIGITS, zero_output
from detection.more_networks import (
    Bag,
    ConvNet,
    Encoder,
    Experts,
    FrozenEncoder,
    Highway,
    LowRank,
    ResidualConvNet,
    ReZero,
    SparseLogits,
    Stacked,
    TiedAutoencoder,
    Unrolled,
    WithFrozenCopy,
)
from detection.networks import dense, he, initialized, xavier
from detection.recipe import Adversarial, Experiment, Recipe, adam, classes, cross_entropy, numbers, sgd
from lightning_gradtools.tasks.networks import GPT, ResidualMLP


def wine() -> data.Data:
    return data.table("wine")


def cancer() -> data.Data:
    return data.table("breast_cancer")


def diabetes() -> data.Data:
    return data.table("diabetes")


def pixels() -> data.Data:
    """Digits with pixels from 0 to 1; some are 0 in every image."""
    return data.digits(standardize=False)


def short_text() -> data.Data:
    return data.text(16, 96)


def with_targets(given: data.Data, factor: float, offset: float) -> data.Data:
    return data.make(given.inputs, factor * given.targets + offset)


def small_gpt(**settings: Any) -> nn.Module:
    return GPT(data.VOCABULARY, context_length=16, depth=1, width=32, heads=2, **settings)


def gpt(name: str, optimizer: Any, net: Any = small_gpt, **more: Any) -> Recipe:
    settings = {key: more.pop(key) for key in ("loss", "schedule") if key in more}
    return Recipe(name, classes(net, optimizer, **settings), short_text, "small_gpt", batch_size=24, steps=200, **more)


def rmsprop(lr: float = 1e-3, **settings: Any) -> Any:
    return lambda parameters: torch.optim.RMSprop(parameters, lr=lr, **settings)


def adamw(lr: float = 2e-3, **settings: Any) -> Any:
    return lambda parameters: torch.optim.AdamW(parameters, lr=lr, **settings)


def adagrad(lr: float = 0.03, **settings: Any) -> Any:
    return lambda parameters: torch.optim.Adagrad(parameters, lr=lr, **settings)


def biased(net: nn.Module, *biases: tuple[str, float]) -> nn.Module:
    """Return the network with the biases of the layers at some paths set."""
    with torch.no_grad():
        for path, bias in biases:
            net.get_submodule(path).bias.fill_(bias)  # type: ignore[operator]
    return net


def fp16(scale: float, growth_interval: int) -> Any:
    """Return a loss scale that overflows at first, and again each time it has grown."""
    return lambda: {
        "plugins": [
            MixedPrecision(
                "16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=growth_interval)
            )
        ]
    }


def outlier_targets(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
    return (x, 40 * y) if step == 90 else (x, y)


def outlier_inputs(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
    return (x * 50, y) if step == 70 else (x, y)


def focal(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy that counts easy samples little (Lin et al. 2017, arXiv:1708.02002)."""
    losses = F.cross_entropy(output, target, reduction="none")
    return ((1 - (-losses).exp()).square() * losses).mean()


def weighted(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target, weight=output.new_tensor([1.0, 4.0]))


def smoothed(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target, label_smoothing=0.05)


class TwoTasks(Experiment):
    """Ten outputs tell the digit, one more whether it is odd; both losses are trained, the first is the objective."""

    def __init__(self) -> None:
        super().__init__(
            dense([64, 48, 48, 11], nn.SiLU),
            adam(3e-3),
            objective=lambda output, target: cross_entropy(output[:, :10], target),
            loss=lambda output, target: (
                cross_entropy(output[:, :10], target)
                + 0.3 * F.binary_cross_entropy_with_logits(output[:, 10], (target % 2).to(output.dtype))
            ),
        )

    def measured(self, net: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        objective, trained, output = super().measured(net, x, y)
        return objective, trained, None if output is None else output[:, :10]


def cosine_to_zero(steps: int) -> Any:
    return lambda step: (0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps))) ** 3


def restarts(period: int) -> Any:
    """Return a factor that falls along a cosine and jumps back to 1."""
    return lambda step: 0.5 + 0.5 * math.cos(math.pi * (step % period) / period)


def normalised_weights() -> nn.Module:
    net = dense([13, 24, 24, 3], nn.Tanh)
    return nn.Sequential(*(weight_norm(layer) if isinstance(layer, nn.Linear) else layer for layer in net.children()))


MORE_HEALTHY = [
    # What others are compared with, beside the references in healthy.py
    gpt("small_gpt", adam(1e-2)),
    Recipe("pixels", classes(lambda: dense(DIGITS), adam(5e-3)), pixels, "pixels", steps=250),
    Recipe("iris", classes(lambda: dense([4, 16, 16, 3], nn.Tanh), adam(1e-2)), data.iris, "iris", batch_size=16),
    Recipe("waves", numbers(lambda: dense([2, 32, 32, 1], nn.Tanh), adam(1e-2)), data.waves, "waves"),
    Recipe("recall", classes(lambda: Stacked(nn.GRU, 2, 4, 1), adam(1e-2)), data.recall, "recall", steps=200),
    # Of kinds that are known to set detectors off
    Recipe(
        "sparse_relu_cancer",
        classes(
            lambda: biased(initialized(dense([30, 160, 2]), he()), ("0", -1.0)), sgd(0.02, momentum=0.9, nesterov=True)
        ),
        cancer,
        "breast_cancer",
        batch_size=32,
        hard=True,
    ),
    Recipe(
        "batch_norm_wine",
        classes(lambda: dense([13, 24, 24, 3], between=nn.BatchNorm1d), sgd(0.05)),
        wine,
        "wine",
        batch_size=16,
        hard=True,
    ),
    Recipe(
        "layer_norm_tanh",
        classes(lambda: dense([30, 24, 24, 24, 2], nn.Tanh, nn.LayerNorm), adagrad()),
        cancer,
        "breast_cancer",
        batch_size=32,
        hard=True,
    ),
    Recipe(
        "gelu_regression",
        numbers(lambda: dense([2, 48, 48, 48, 1], nn.GELU), adamw(3e-3)),
        data.waves,
        "waves",
        hard=True,
    ),
    Recipe(
        "pre_norm_encoder",
        classes(lambda: Encoder(1), adam(5e-3)),
        data.digit_rows,
        "attention",
        steps=200,
        hard=True,
    ),
    Recipe(
        "frozen_encoder",
        classes(FrozenEncoder, adamw(5e-3)),
        data.digit_images,
        "cnn_plain",
        batch_size=32,
        steps=200,
        hard=True,
    ),
    Recipe("low_rank", classes(LowRank, adam(5e-3)), data.digits, "mlp_adam", hard=True),
    Recipe("rezero", classes(lambda: ReZero(30, 2, 6), adam(1e-2)), cancer, "breast_cancer", batch_size=32, hard=True),
    Recipe(
        "sparse_votes",
        classes(lambda: SparseLogits(data.VOCABULARY, 3), lambda p: torch.optim.SparseAdam(p, lr=2e-2)),
        data.bags,
        "sparse_embedding",
        hard=True,
    ),
    Recipe(
        "cosine_tail_gru",
        classes(lambda: Stacked(nn.GRU, 2, 4, 1), adamw(2e-2), schedule=cosine_to_zero(240)),
        data.recall,
        "recall",
        steps=240,
        hard=True,
    ),
    Recipe(
        "warmup_cnn",
        classes(
            lambda: initialized(ConvNet([8, 16]), he()),
            sgd(0.1, momentum=0.9),
            schedule=lambda step: min(1.0, step / 80) ** 2,
        ),
        data.digit_images,
        "cnn_plain",
        batch_size=32,
        steps=200,
        hard=True,
    ),
    Recipe(
        "converged_iris",
        classes(lambda: dense([4, 48, 48, 3], nn.GELU), sgd(0.1, momentum=0.9)),
        lambda: data.make(data.iris().inputs, (data.iris().targets > 0).long()),
        "converged_iris",
        batch_size=16,
        steps=400,
        hard=True,
    ),
    Recipe(
        "converged_regression",
        numbers(lambda: dense([10, 24, 1], nn.Softplus), adam(1e-2), schedule=cosine_to_zero(400)),
        lambda: data.make(diabetes().inputs, diabetes().inputs[:, :2].sum(dim=1, keepdim=True)),
        "converged_regression",
        batch_size=32,
        steps=400,
        hard=True,
    ),
    Recipe(
        "bf16_recurrent",
        classes(lambda: Unrolled(8, 10, gain=1.0), adam(3e-3)),
        data.digit_rows,
        "rnn",
        steps=200,
        trainer=lambda: {"precision": "bf16-mixed"},
        hard=True,
    ),
    Recipe(
        "fp16_regression",
        numbers(lambda: dense([10, 32, 1], nn.GELU), sgd(0.05)),
        diabetes,
        "diabetes",
        batch_size=32,
        trainer=fp16(2.0**24, 40),
        hard=True,
    ),
    Recipe(
        "fp16_batch_norm",
        classes(lambda: dense([30, 24, 24, 2], between=nn.BatchNorm1d), adam(3e-3)),
        cancer,
        "breast_cancer",
        batch_size=32,
        trainer=fp16(2.0**26, 25),
        hard=True,
    ),
    Recipe(
        "accumulation_of_8",
        classes(lambda: dense([30, 16, 2], nn.ELU), rmsprop(3e-3)),
        cancer,
        "breast_cancer",
        batch_size=4,
        steps=200,
        trainer=lambda: {"accumulate_grad_batches": 8},
        hard=True,
    ),
    Recipe(
        "batch_of_two_cancer",
        classes(lambda: dense([30, 16, 16, 2]), sgd(0.01, momentum=0.5)),
        cancer,
        "breast_cancer",
        batch_size=2,
        steps=600,
        hard=True,
    ),
    Recipe(
        "outlier_targets",
        numbers(lambda: dense([10, 32, 1]), adam(5e-3), corrupt=outlier_targets),
        diabetes,
        "diabetes",
        batch_size=32,
        hard=True,
    ),
    Recipe(
        "outlier_inputs",
        classes(lambda: dense([13, 24, 3], between=nn.LayerNorm), rmsprop(3e-3), corrupt=outlier_inputs),
        wine,
        "wine",
        batch_size=16,
        hard=True,
    ),
    Recipe("linear_wine", classes(lambda: nn.Linear(13, 3), adagrad(0.3)), wine, "wine", batch_size=16, hard=True),
    Recipe(
        "linear_autoencoder",
        numbers(lambda: nn.Sequential(nn.Linear(64, 16), nn.Linear(16, 64)), adam(5e-3)),
        data.digit_reconstruction,
        "autoencoder",
        hard=True,
    ),
    Recipe(
        "residual_conv_net",
        classes(lambda: ResidualConvNet(5), sgd(0.05, momentum=0.9)),
        data.digit_images,
        "cnn_plain",
        batch_size=32,
        steps=150,
        hard=True,
    ),
    Recipe(
        "deep_residual_cancer",
        classes(lambda: ResidualMLP(30, 2, width=16, depth=16, activation="silu"), rmsprop(1e-3)),
        cancer,
        "breast_cancer",
        batch_size=32,
        steps=120,
        hard=True,
    ),
    Recipe("gan_clusters", lambda: Adversarial(lr=(1e-3, 4e-3)), data.clusters, "gan_clusters", steps=600, hard=True),
    # Further ones
    Recipe(
        "offset_targets",
        numbers(lambda: dense([10, 32, 1]), adam(2e-2)),
        lambda: with_targets(diabetes(), 1.0, 8.0),
        "diabetes",
        batch_size=32,
    ),
    Recipe(
        "small_targets",
        numbers(lambda: zero_output(dense([10, 48, 1], nn.Tanh)), adam(2e-3), schedule=cosine_to_zero(300)),
        lambda: with_targets(diabetes(), 0.03, 0.0),
        "diabetes",
        batch_size=32,
    ),
    Recipe(
        "flipped_classes",
        classes(lambda: dense([30, 16, 2]), adamw(3e-3, weight_decay=0.1)),
        lambda: data.flipped_classes("breast_cancer"),
        "flipped_classes",
        batch_size=32,
    ),
    Recipe(
        "tiny_loss_adam",
        classes(
            lambda: dense([4, 16, 16, 3], nn.SiLU),
            adam(1e-2, eps=1e-16),
            loss=lambda o, t: 1e-6 * F.cross_entropy(o, t),
        ),
        data.iris,
        "iris",
        batch_size=16,
    ),
    Recipe(
        "dropout_cnn",
        classes(
            lambda: nn.Sequential(
                nn.Conv2d(1, 12, 3, padding=1),
                nn.ReLU6(),
                nn.Dropout2d(0.2),
                nn.MaxPool2d(2),
                nn.Flatten(),
                nn.Dropout(0.3),
                nn.Linear(192, 10),
            ),
            adam(1e-2),
        ),
        data.digit_images,
        "cnn_plain",
        batch_size=32,
    ),
    Recipe(
        "huber",
        numbers(lambda: dense([10, 24, 24, 1], nn.ELU), adam(3e-3), loss=F.huber_loss),
        diabetes,
        "diabetes",
        batch_size=32,
    ),
    Recipe(
        "absolute_error",
        numbers(lambda: dense([2, 48, 48, 1]), adam(5e-3), loss=F.l1_loss),
        data.waves,
        "waves",
    ),
    Recipe("one_digit", classes(lambda: dense([64, 32, 2]), sgd(0.2)), data.one_digit, "one_digit"),
    Recipe("focal", classes(lambda: dense([64, 32, 32, 2], nn.GELU), adam(3e-3), loss=focal), data.one_digit, "focal"),
    Recipe(
        "class_weights",
        classes(lambda: dense([64, 32, 2], nn.Hardswish), adam(3e-3), loss=weighted),
        data.one_digit,
        "one_digit",
    ),
    Recipe(
        "label_smoothing",
        classes(lambda: dense([64, 48, 48, 10], nn.CELU), rmsprop(2e-3), loss=smoothed),
        data.digits,
        "mlp_adam",
    ),
    gpt("gpt_untied_silu", adam(1e-2), lambda: small_gpt(tied=False, activation="silu")),
    Recipe("two_tasks", TwoTasks, data.digits, "mlp_adam", steps=200),
    Recipe(
        "warm_restarts",
        classes(lambda: dense([64, 48, 48, 10], nn.Mish), sgd(0.3), schedule=restarts(50)),
        data.digits,
        "mlp_sgd",
        steps=250,
    ),
    Recipe("tied_autoencoder", numbers(TiedAutoencoder, adam(5e-3)), data.digit_reconstruction, "autoencoder"),
    Recipe("weight_norm", classes(normalised_weights, sgd(0.1, momentum=0.5)), wine, "wine", batch_size=16),
    Recipe(
        "frozen_copy",
        classes(lambda: WithFrozenCopy(dense([4, 24, 24, 3])), adam(5e-3)),
        data.iris,
        "iris",
        batch_size=16,
    ),
    Recipe("highway", classes(lambda: Highway(13, 3, 6), adam(1e-2)), wine, "wine", batch_size=16),
    Recipe("experts", classes(lambda: Experts(64, 10), adam(5e-3)), data.digits, "mlp_adam", steps=200),
    Recipe(
        "embeddings",
        classes(lambda: Bag(data.VOCABULARY, 3, lambda embedding, ids: embedding(ids)), adagrad(0.1)),
        data.bags,
        "sparse_embedding",
    ),
    Recipe(
        "clipped_lstm",
        classes(lambda: Stacked(nn.LSTM, 8, 10, 2), adam(1e-2)),
        data.digit_rows,
        "lstm",
        steps=150,
        trainer=lambda: {"gradient_clip_val": 0.1},
    ),
    Recipe(
        "summed_loss",
        numbers(
            lambda: initialized(dense([2, 32, 32, 1], nn.Tanh), xavier()),
            adam(1e-2),
            loss=lambda o, t: F.mse_loss(o, t, reduction="sum"),
        ),
        data.waves,
        "waves",
    ),
]
