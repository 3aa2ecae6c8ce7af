"""Steps that are too large, too small or unsteady: learning rates, schedules, optimizers' settings."""

import torch
import torch.nn.functional as F
from torch import nn

from detection import data
from detection.experiment import Adversarial, NormalisedAdversarial
from detection.networks.attention import Encoder
from detection.networks.characters import gpt
from detection.networks.convolutional import ConvNet, PlainCNN
from detection.networks.dense import DIGITS, dense
from detection.networks.recurrent import Recurrent, Stacked
from detection.networks.weights import he, initialized
from detection.optimizers import adagrad, adam, adamw, rmsprop, sgd
from detection.recipe import Recipe
from detection.tasks import (
    on_cancer,
    on_diabetes,
    on_digits,
    on_halves,
    on_images,
    on_iris,
    on_long_text,
    on_parity,
    on_recall,
    on_rows,
    on_waves,
    on_wine,
)

RECIPES = [
    on_digits("lr_100", lambda: initialized(dense(DIGITS), he()), sgd(10.0), fault="SGD with lr 10", twin="mlp_sgd"),
    on_digits(
        "lr_30_tanh", lambda: dense(DIGITS, nn.Tanh), sgd(30.0), fault="SGD with lr 30 into tanh", twin="mlp_tanh"
    ),
    on_digits("adam_lr_1", lambda: dense(DIGITS), adam(1.0), fault="Adam with lr 1"),
    on_digits(
        "adam_lr_03_tanh",
        lambda: dense(DIGITS, nn.Tanh),
        adam(0.3),
        fault="Adam with lr 0.3 into tanh",
        twin="mlp_tanh",
    ),
    on_digits("lr_tiny", lambda: initialized(dense(DIGITS), he()), sgd(1e-5), fault="SGD with lr 1e-5", twin="mlp_sgd"),
    on_digits("adam_lr_tiny", lambda: dense(DIGITS), adam(1e-7), fault="Adam with lr 1e-7"),
    on_digits(
        "lr_hundredth", lambda: initialized(dense(DIGITS), he()), sgd(1e-3), fault="SGD with lr 0.001", twin="mlp_sgd"
    ),
    on_digits(
        "schedule_too_short",
        lambda: dense(DIGITS),
        adam(1e-3),
        fault="the schedule ends at step 8",
        schedule=lambda s: max(0.0, 1 - s / 8),
    ),
    on_digits(
        "clip_tiny",
        lambda: initialized(dense(DIGITS), he()),
        sgd(),
        fault="clipping at 1e-6",
        twin="mlp_sgd",
        trainer=lambda: {"gradient_clip_val": 1e-6},
    ),
    on_digits(
        "loss_times_1e5",
        lambda: initialized(dense(DIGITS), he()),
        sgd(),
        fault="the loss × 1e5 with the usual lr",
        twin="mlp_sgd",
        loss=lambda o, t: 1e5 * F.cross_entropy(o, t),
    ),
    on_diabetes(
        "regression_lr", lambda: nn.Linear(10, 1), sgd(0.9), fault="lr above 2 / curvature", twin="linear_regression"
    ),
    on_cancer("logistic_lr", lambda: nn.Linear(30, 2), sgd(100.0), fault="lr 100"),
    on_diabetes(
        "momentum_edge", lambda: dense([10, 32, 1]), sgd(0.3, momentum=0.98), fault="lr 0.3 with momentum 0.98"
    ),
    on_cancer("adam_oscillates", lambda: dense([30, 32, 32, 2]), adam(0.5), fault="Adam with lr 0.5"),
    on_wine("edge_of_stability", lambda: dense([13, 16, 3]), sgd(8.0), fault="lr 8"),
    on_long_text("gpt_lr", gpt, adam(0.3), fault="Adam with lr 0.3, no warm-up"),
    on_long_text("gpt_sgd_lr", gpt, sgd(30.0), fault="SGD with lr 30"),
    on_images(
        "cnn_lr",
        lambda: initialized(PlainCNN([8, 8, 16]), he()),
        sgd(3.0, momentum=0.9),
        fault="SGD with lr 3 and momentum",
        batch_size=64,
    ),
    on_rows("lstm_lr", lambda: Recurrent(nn.LSTM, 8), adam(1.0), fault="Adam with lr 1", twin="lstm"),
    on_diabetes(
        "adam_low_eps",
        lambda: dense([10, 32, 32, 1], nn.Tanh),
        adam(0.3, eps=1e-30, betas=(0.9, 0.9)),
        fault="eps 1e-30, short second moment",
    ),
    Recipe("gan_lr", lambda: Adversarial(lr=(0.5, 0.5)), data.ring, "gan", fault="both learning rates 0.5", steps=600),
    Recipe(
        "gan_strong_discriminator",
        lambda: Adversarial(lr=(1e-5, 0.05), scale=8.0),
        data.ring,
        "gan",
        fault="a discriminator that wins at once",
        steps=600,
    ),
    on_digits(
        "killed_by_lr",
        lambda: initialized(dense(DIGITS), he()),
        sgd(2.0, momentum=0.9),
        fault="SGD with lr 2 and momentum 0.9",
        twin="mlp_sgd",
    ),
    on_wine("wine_killed", lambda: dense([13, 16, 16, 3]), sgd(5.0, momentum=0.9), fault="SGD with lr 5 and momentum"),
    on_wine("wine_adamw_lr", lambda: dense([13, 16, 16, 3], nn.Tanh), adamw(1.5), fault="AdamW with lr 1.5"),
    on_diabetes(
        "diabetes_rmsprop_lr", lambda: dense([10, 24, 24, 1], nn.LeakyReLU), rmsprop(0.5), fault="RMSprop with lr 0.5"
    ),
    on_cancer(
        "noisy_logistic_lr",
        lambda: nn.Linear(30, 2),
        sgd(30.0),
        fault="a linear model with lr 30, some labels wrong",
        data=lambda: data.flipped_classes("breast_cancer"),
        twin="flipped_classes",
    ),
    on_diabetes(
        "nesterov_edge",
        lambda: dense([10, 24, 1], nn.Tanh),
        sgd(0.2, momentum=0.97, nesterov=True),
        fault="lr 0.2 with Nesterov momentum 0.97",
    ),
    on_waves(
        "growing_lr",
        lambda: dense([2, 32, 32, 1], nn.Tanh),
        adam(1e-2),
        fault="a warm-up that never ends",
        schedule=lambda step: 1.03**step,
    ),
    on_iris("iris_adagrad_lr", lambda: dense([4, 16, 16, 3]), adagrad(20.0), fault="Adagrad with lr 20"),
    on_images("conv_net_adam_lr", lambda: ConvNet([8, 8]), adam(0.3), fault="Adam with lr 0.3", steps=150),
    on_rows(
        "gru_lr",
        lambda: Stacked(nn.GRU, 8, 10, 1),
        adam(3.0),
        fault="Adam with lr 3 into a GRU",
        twin="lstm",
        steps=150,
    ),
    on_rows("encoder_lr", lambda: Encoder(1), rmsprop(0.1), fault="RMSprop with lr 0.1", steps=120),
    on_cancer("rmsprop_lr_tiny", lambda: dense([30, 24, 2], nn.ELU), rmsprop(1e-8), fault="RMSprop with lr 1e-8"),
    on_wine(
        "schedule_collapses",
        lambda: dense([13, 16, 3], nn.GELU),
        sgd(0.1),
        fault="lr falls by half at each step",
        schedule=lambda step: 0.5**step,
    ),
    on_iris("adam_huge_eps", lambda: dense([4, 16, 3]), adam(1e-2, eps=1e3), fault="Adam with eps 1000"),
    on_waves(
        "low_eps",
        lambda: dense([2, 32, 32, 1], nn.Tanh),
        adam(0.2, eps=0.0, betas=(0.9, 0.5)),
        fault="eps 0 and a short second moment with a large lr",
    ),
    Recipe(
        "gan_lr_01",
        lambda: Adversarial(lr=(0.1, 0.1)),
        data.clusters,
        "gan_clusters",
        fault="both learning rates 0.1",
        steps=600,
    ),
    Recipe(
        "gan_still_generator",
        lambda: Adversarial(lr=(1e-7, 2e-3)),
        data.clusters,
        "gan_clusters",
        fault="the generator's learning rate 1e-7",
        steps=600,
    ),
    on_diabetes("killed_regression", lambda: dense([10, 24, 24, 1]), sgd(1.0), fault="lr 1 with ReLU"),
    on_iris(
        "iris_linear_lr",
        lambda: nn.Linear(4, 3),
        sgd(300.0, momentum=0.9),
        fault="a linear model with lr 300 and momentum",
        steps=200,
        half="report",
    ),
    on_waves(
        "adamax_lr",
        lambda: dense([2, 32, 32, 1], nn.ELU),
        lambda parameters: torch.optim.Adamax(parameters, lr=2.0),
        fault="Adamax with lr 2",
        steps=200,
        half="report",
    ),
    on_halves(
        "halves_momentum",
        lambda: dense([32, 48, 32], nn.Tanh),
        sgd(3.0, momentum=0.99),
        fault="lr 3 with momentum 0.99",
        steps=150,
        half="report",
    ),
    on_recall(
        "recall_rmsprop_lr",
        lambda: Stacked(nn.LSTM, 2, 4, 1),
        rmsprop(0.5),
        fault="RMSprop with lr 0.5",
        steps=150,
        half="report",
    ),
    on_parity(
        "one_huge_step",
        lambda: initialized(dense([64, 48, 48, 2]), he()),
        sgd(0.05),
        fault="the learning rate × 1000 at step 50",
        steps=150,
        schedule=lambda step: 1000.0 if step == 50 else 1.0,
        half="report",
    ),
    on_recall(
        "gru_lr_tiny", lambda: Stacked(nn.GRU, 2, 4, 2), sgd(1e-6), fault="SGD with lr 1e-6", steps=150, half="report"
    ),
    Recipe(
        "gan_arc_lr",
        lambda: NormalisedAdversarial((0.3, 0.3)),
        data.arc,
        "gan_arc",
        fault="both learning rates 0.3",
        steps=600,
        half="report",
    ),
]
