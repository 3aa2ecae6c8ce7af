"""Runs that learn, and their networks: written after the detector's rules were last changed, without looking at it.

Kept or changed by the measured outcome of their runs alone.
"""

import math
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from detection import data
from detection.held_out_healthy import Make
from detection.more_healthy import adagrad, adamw, biased, cancer, fp16, pixels, rmsprop, small_gpt, wine
from detection.more_networks import Apply, ConvNet, Encoder, Stacked
from detection.networks import dense, he, initialized, xavier
from detection.recipe import Adversarial, Experiment, Recipe, adam, classes, cross_entropy, numbers, sgd
from lightning_gradtools.tasks.networks import ResidualMLP


@lru_cache
def spirals(samples: int = 480) -> data.Data:
    """Points on two arms of a spiral: which arm?"""
    generator = torch.Generator().manual_seed(0)
    arm = torch.randint(2, (samples,), generator=generator)
    turn = 4.5 * torch.rand(samples, generator=generator).sqrt()
    angle = turn + math.pi * arm
    points = torch.stack([turn * angle.cos(), turn * angle.sin()], dim=1) / 2
    return data.make(points + 0.05 * torch.randn(samples, 2, generator=generator), arm)


@lru_cache
def friedman(samples: int = 512, noise: float = 0.2) -> data.Data:
    """Friedman's function of ten numbers, five of which do not matter; inputs and target of variance about 1."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(samples, 10, generator=generator)
    y = 10 * (math.pi * x[:, 0] * x[:, 1]).sin() + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    y = (y - y.mean()) / y.std() + noise * torch.randn(samples, generator=generator)
    return data.make((x - 0.5) * 12**0.5, y[:, None])


def few_of_friedman() -> data.Data:
    """40 samples: a network that works learns them by heart."""
    given = friedman(noise=0.0)
    return data.make(given.inputs[:40], given.targets[:40])


@lru_cache
def sines(samples: int = 384) -> data.Data:
    """16 values of a sine of random frequency and phase as a sequence, and the next 4."""
    generator = torch.Generator().manual_seed(0)
    frequency, phase = torch.rand(2, samples, 1, generator=generator)
    values = ((0.2 + 0.5 * frequency) * torch.arange(20) + 2 * math.pi * phase).sin()
    return data.make(values[:, :16, None], values[:, 16:])


@lru_cache
def counts(samples: int = 512) -> data.Data:
    """Counts, most of them 0 or 1, whose rate depends on three numbers."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 3, generator=generator)
    rate = (0.9 * x[:, 0] - 0.7 * x[:, 1] * (x[:, 2] > 0)).exp()
    return data.make(x, torch.poisson(rate, generator=generator).clamp(max=12)[:, None])


def digit_bits() -> data.Data:
    """Four numbers, 0 or 1: the digit in binary."""
    digit = data.digits().targets
    return data.make(data.digits().inputs, torch.stack([digit >> i & 1 for i in range(4)], dim=1).float())


def rare_class() -> data.Data:
    """All digits but the zeros, and 24 of those: is it a zero?"""
    given = data.digits()
    zero = given.targets == 0
    kept = ~zero | (zero.cumsum(0) <= 24)
    return data.make(given.inputs[kept], zero[kept].long())


@lru_cache
def domains() -> data.Data:
    """Friedman's numbers with an eleventh that says which of three functions is meant; the third is rare."""
    given = friedman()
    drawn = torch.rand(len(given.inputs), generator=torch.Generator().manual_seed(1))
    domain = torch.bucketize(drawn, torch.tensor([0.6, 0.96]))
    factor = torch.tensor([1.0, -1.0, 0.5])[domain]
    return data.make(torch.cat([given.inputs, domain[:, None].float()], dim=1), given.targets * factor[:, None])


def setosa() -> data.Data:
    """Is it the flower that a line tells from the others?"""
    return data.make(data.iris().inputs, (data.iris().targets == 0).long())


@lru_cache
def crescent(samples: int = 1024) -> data.Data:
    """Points of a half circle, for a generator to imitate; the targets are not used."""
    generator = torch.Generator().manual_seed(0)
    angle = math.pi * torch.rand(samples, generator=generator)
    points = torch.stack([1.5 * angle.cos(), angle.sin()], dim=1) + 0.1 * torch.randn(samples, 2, generator=generator)
    return data.Data(points, points, float(points.var(dim=0).sum()))


class TopK(nn.Module):
    """All but the ``k`` largest units of each sample are zero."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, x: Tensor) -> Tensor:
        least = x.topk(self.k, dim=1).values[:, -1:]
        return torch.where(x >= least, x, 0.0)


class Scaled(nn.Module):
    """x + s * f(norm(x)), s a number for each channel that starts small (Touvron et al. 2021, arXiv:2103.17239)."""

    def __init__(self, features: int, outputs: int, depth: int, start: float, width: int = 24) -> None:
        super().__init__()
        self.input = nn.Linear(features, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.branches = nn.ModuleList(dense([width, 2 * width, width], nn.GELU) for _ in range(depth))
        self.strength = nn.Parameter(torch.full((depth, width), start))
        self.output = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.input(x)
        for norm, branch, strength in zip(self.norms, self.branches, self.strength, strict=True):
            x = x + strength * branch(norm(x))
        y: Tensor = self.output(x)
        return y


class SideNetwork(nn.Module):
    """A network, and another one that is added to its hidden layer through a layer of zeros."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.main = nn.Sequential(nn.Linear(features, 24), nn.Tanh())
        self.side = dense([features, 32, 24], nn.Tanh)
        self.join = nn.Linear(24, 24)
        self.output = nn.Linear(24, outputs)
        nn.init.zeros_(self.join.weight)
        nn.init.zeros_(self.join.bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.output((self.main(x) + self.join(self.side(x).tanh())).tanh())
        return y


class Pairs(nn.Module):
    """The mean of sparse embeddings of pairs of characters, hashed to 499 rows, and a linear output."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(499, width, mode="mean", sparse=True)
        self.output = nn.Linear(width, 3)

    def forward(self, ids: Tensor) -> Tensor:
        y: Tensor = self.output(self.bag((31 * ids[:, 1:] + ids[:, :-1]) % 499))
        return y


class Frequencies(nn.Module):
    """How often each character occurs, and a linear output."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(data.VOCABULARY, 3)

    def forward(self, ids: Tensor) -> Tensor:
        y: Tensor = self.output(F.one_hot(ids, data.VOCABULARY).to(self.output.weight.dtype).sum(dim=1))
        return y


class FrozenEmbedding(nn.Module):
    """Random vectors of characters that are not trained, their mean, and dense layers that are."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(data.VOCABULARY, 48).requires_grad_(False)
        self.head = dense([48, 24, 3], nn.GELU)

    def forward(self, ids: Tensor) -> Tensor:
        y: Tensor = self.head(4 * self.embedding(ids).mean(dim=1))
        return y


class Layered(nn.Module):
    """x + f(x) / sqrt(depth) without norm, f one layer and a ReLU."""

    def __init__(self, features: int, outputs: int, depth: int, width: int = 24) -> None:
        super().__init__()
        self.input = nn.Linear(features, width)
        self.layers = nn.ModuleList(initialized(nn.Linear(width, width), he()) for _ in range(depth))
        self.output = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.input(x)
        for layer in self.layers:
            x = x + F.relu(layer(x)) / len(self.layers) ** 0.5
        y: Tensor = self.output(x)
        return y


class StochasticDepth(nn.Module):
    """x + f(x), each f left out of a step with probability ``p``: then it has no gradient (arXiv:1603.09382)."""

    def __init__(self, depth: int, p: float, width: int = 32) -> None:
        super().__init__()
        self.input = nn.Linear(64, width)
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), dense([width] * 3)) for _ in range(depth))
        self.output = nn.Linear(width, 10)
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        x = self.input(x)
        for block in self.blocks:
            if torch.rand(()) >= self.p:
                x = x + block(x)
        y: Tensor = self.output(x)
        return y


class Domains(nn.Module):
    """A trunk, and an output for each domain; many batches have no sample of the rare one."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = dense([10, 32, 24], nn.SiLU)
        self.heads = nn.ModuleList(nn.Linear(24, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        h, domain = F.silu(self.trunk(x[:, :10])), x[:, 10]
        y = h.new_zeros(len(h), 1)
        for index, head in enumerate(self.heads):
            where = (domain == index).nonzero()[:, 0]
            if len(where):
                y = y.index_put((where,), head(h[where]).to(y.dtype))
        return y


class CosineLogits(nn.Module):
    """The cosine of features and class vectors, times 12."""

    def __init__(self) -> None:
        super().__init__()
        self.features = dense([64, 48, 24], nn.SiLU)
        self.classes = nn.Parameter(torch.randn(10, 24))

    def forward(self, x: Tensor) -> Tensor:
        return 12 * F.normalize(self.features(x), dim=1) @ F.normalize(self.classes, dim=1).t()


class Dilated(nn.Module):
    """Gated convolutions over time with ever wider gaps; (batch, time, 1) to (batch, 10)."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.input = nn.Conv1d(1, width, 1)
        self.layers = nn.ModuleList(nn.Conv1d(width, 2 * width, 3, padding=2**i, dilation=2**i) for i in range(4))
        self.output = nn.Linear(8 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.input(x.transpose(1, 2))
        for layer in self.layers:
            x = x + F.glu(layer(x), dim=1)
        y: Tensor = self.output(F.avg_pool1d(x, 8).flatten(1))
        return y


class Inner(nn.Module):
    """A network that reads sequences as one long vector."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x.flatten(1))
        return y


class GroupNormNet(nn.Module):
    """Two convolutions with a norm over all channels of a sample, and a linear output on the mean over space."""

    def __init__(self, groups: int = 1, activation: Any = F.gelu) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 12, 3, padding=1), nn.Conv2d(12, 16, 3, stride=2, padding=1)
        self.first_norm, self.second_norm = nn.GroupNorm(groups, 12), nn.GroupNorm(groups, 16)
        self.output = nn.Linear(16 * 4, 10)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.first_norm(self.first(x)))
        x = self.activation(self.second_norm(self.second(x)))
        y: Tensor = self.output(F.avg_pool2d(x, 2).flatten(1))
        return y


def frozen_output() -> nn.Module:
    """An output layer that keeps its random weights; all before it is trained."""
    net = dense([64, 64, 32, 10], nn.SiLU)
    net.get_submodule("4").requires_grad_(False)
    return net


def raw_features() -> nn.Module:
    """Features in their own units, with batch norm in front."""
    return nn.Sequential(nn.BatchNorm1d(30), nn.Linear(30, 24), nn.SiLU(), nn.BatchNorm1d(24), nn.Linear(24, 2))


def cosine(steps: int, power: int = 1, warmup: int = 0) -> Any:
    """Return a factor that rises from 0 if there is a warm-up, and falls to 0 along a power of a cosine."""

    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        return float((0.5 + 0.5 * math.cos(math.pi * min(1.0, (step - warmup) / (steps - warmup)))) ** power)

    return factor


def blank(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
    return (torch.zeros_like(x), y) if step == 100 else (x, y)


def far_targets(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
    return (x, y + 12) if step == 60 else (x, y)


def one_class(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
    return (8 * x, torch.zeros_like(y)) if step == 80 else (x, y)


def with_noise(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
    return x + 0.3 * torch.randn_like(x), y


def erased(x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
    return x * (torch.rand_like(x) < 0.6), y


def poisson(output: Tensor, target: Tensor) -> Tensor:
    return F.poisson_nll_loss(output, target, log_input=True)


def pinball(output: Tensor, target: Tensor, quantile: float = 0.4) -> Tensor:
    apart = target - output
    return torch.maximum(quantile * apart, (quantile - 1) * apart).mean()


def likelihood(output: Tensor, target: Tensor) -> Tensor:
    """Minus the logarithm of a normal density; below zero once the prediction is good and knows it."""
    mean, log_variance = output.chunk(2, dim=1)
    return 0.5 * (log_variance + (target - mean).square() * (-log_variance).exp()).mean()


def margin(output: Tensor, target: Tensor) -> Tensor:
    """Exactly zero once every sample is far enough on its side."""
    return F.multi_margin_loss(output, target)


def slow_first_layer(parameters: Any) -> torch.optim.Optimizer:
    """Adam with a learning rate a hundredth as large for the first layer."""
    first, rest = list(parameters)[:2], list(parameters)[2:]
    return torch.optim.Adam([{"params": first, "lr": 3e-5}, {"params": rest, "lr": 3e-3}])


def optimizer(name: str, lr: float, **settings: Any) -> Any:
    return partial(getattr(torch.optim, name), lr=lr, **settings)


class TakingTurns(Experiment):
    """Ten outputs tell the digit and two whether it is odd; each step trains one of the two layers, in turn."""

    def __init__(self) -> None:
        net = nn.ModuleDict({"trunk": dense([64, 48, 32], nn.ELU), "digit": nn.Linear(32, 10), "odd": nn.Linear(32, 2)})
        super().__init__(net, adam(5e-3))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        digit, odd = self._outputs(self.net, x)
        return cross_entropy(odd, y % 2) if self.global_step % 2 else cross_entropy(digit, y)

    @staticmethod
    def _outputs(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        assert isinstance(net, nn.ModuleDict)
        h = F.elu(net["trunk"](x))
        return net["digit"](h), net["odd"](h)

    def measured(self, net: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        digit, odd = self._outputs(net, x)
        objective = cross_entropy(digit, y)
        return objective, objective + cross_entropy(odd, y % 2), digit


class SpectralAdversarial(Adversarial):
    """A discriminator whose matrices have a largest singular value of 1."""

    def __init__(self) -> None:
        super().__init__((1e-3, 4e-3))
        self.pair.generator = dense([4, 40, 40, 2], nn.SiLU)
        sizes = [(2, 64), (64, 64)]
        hidden = [part for size in sizes for part in (spectral_norm(nn.Linear(*size)), nn.LeakyReLU(0.1))]
        self.pair.discriminator = nn.Sequential(*hidden, nn.Linear(64, 1))


def _recipe(name: str, net: Any, optimizer: Any, *, make: Make = classes, **more: Any) -> Recipe:
    settings = {key: more.pop(key) for key in ("loss", "objective", "schedule", "corrupt") if key in more}
    return Recipe(name, make(net, optimizer, **settings), **more)


on_spirals = partial(_recipe, data=spirals, twin="spirals", batch_size=48)
on_friedman = partial(_recipe, data=friedman, twin="friedman", make=numbers)
on_sines = partial(_recipe, data=sines, twin="sines", make=numbers, batch_size=48, steps=250)
on_digits = partial(_recipe, data=data.digits, twin="mlp_adam", steps=250)
on_images = partial(_recipe, data=data.digit_images, twin="cnn_plain", batch_size=32, steps=150)
on_rows = partial(_recipe, data=data.digit_rows, twin="attention", steps=150)
on_bags = partial(_recipe, data=data.bags, twin="sparse_embedding", steps=250)
on_wine = partial(_recipe, data=wine, twin="wine", batch_size=16, steps=250)
on_cancer = partial(_recipe, data=cancer, twin="breast_cancer", batch_size=32, steps=200)
on_text = partial(_recipe, data=partial(data.text, 16, 96), twin="small_gpt", batch_size=24, steps=200)
reconstructing = partial(_recipe, data=data.digit_reconstruction, twin="autoencoder", make=numbers)

FRESH_HEALTHY = [
    # What others are compared with
    on_spirals("spirals", lambda: dense([2, 48, 48, 2], nn.Tanh), adam(1e-2)),
    on_friedman("friedman", lambda: dense([10, 32, 32, 1], nn.SiLU), adam(5e-3)),
    on_sines("sines", lambda: Inner(dense([16, 32, 4], nn.Tanh)), adam(1e-2)),
    # Of kinds that are known to set detectors off
    on_friedman(
        "sparse_relu_friedman",
        lambda: biased(initialized(dense([10, 200, 1]), he()), ("0", -1.5)),
        adam(5e-3),
        hard=True,
    ),
    on_digits(
        "largest_units",
        lambda: nn.Sequential(nn.Linear(64, 96), nn.ReLU(), TopK(10), nn.Linear(96, 10)),
        optimizer("Adamax", 1e-2),
        hard=True,
    ),
    _recipe(
        "raw_features_batch_norm",
        raw_features,
        sgd(0.1, momentum=0.5),
        data=partial(data.unscaled_table, "breast_cancer"),
        twin="raw_features_batch_norm",
        batch_size=24,
        steps=200,
        hard=True,
    ),
    on_images("one_group_norm", GroupNormNet, adamw(5e-3), hard=True),
    on_spirals(
        "layer_norm_spirals", lambda: dense([2, 40, 40, 40, 2], nn.SiLU, nn.LayerNorm), rmsprop(3e-3), hard=True
    ),
    on_friedman("gelu_friedman", lambda: dense([10, 40, 40, 40, 1], nn.GELU), optimizer("RAdam", 1e-2), hard=True),
    on_bags("frozen_embedding", FrozenEmbedding, adam(1e-2), hard=True),
    on_digits("frozen_output", frozen_output, adam(3e-3), hard=True),
    on_friedman("small_layer_scale", lambda: Scaled(10, 1, 6, 1e-3), adam(5e-3), hard=True),
    on_rows("layer_scale_rows", lambda: Inner(Scaled(64, 10, 3, 0.0, 32)), adamw(5e-3), twin="mlp_adam", hard=True),
    on_wine("zero_joint", lambda: SideNetwork(13, 3), sgd(0.1, momentum=0.8), hard=True),
    on_bags("sparse_pairs", Pairs, adagrad(0.3), hard=True),
    on_images(
        "cosine_tail_conv_net",
        lambda: ConvNet([10, 10], F.leaky_relu),
        optimizer("NAdam", 8e-3),
        schedule=cosine(200, 5),
        steps=200,
        hard=True,
    ),
    on_spirals(
        "one_cycle",
        lambda: dense([2, 64, 64, 2]),
        adamw(2e-2),
        schedule=cosine(290, 2, warmup=80),
        hard=True,
    ),
    on_sines(
        "warmup_gru",
        lambda: Stacked(nn.GRU, 1, 4, 1),
        adam(1e-2),
        schedule=lambda step: min(1.0, step / 50) ** 3,
        hard=True,
    ),
    _recipe(
        "margin_at_zero",
        lambda: dense([4, 12, 2], nn.Tanh),
        sgd(0.3, momentum=0.9),
        loss=margin,
        data=setosa,
        twin="margin_at_zero",
        batch_size=16,
        steps=250,
        hard=True,
    ),
    _recipe(
        "friedman_by_heart",
        lambda: dense([10, 64, 64, 1], nn.Tanh),
        adam(5e-3),
        make=numbers,
        schedule=cosine(300),
        data=few_of_friedman,
        twin="friedman_by_heart",
        batch_size=20,
        hard=True,
    ),
    on_spirals(
        "bf16_spirals",
        lambda: dense([2, 48, 48, 2], nn.SiLU),
        adam(5e-3),
        trainer=lambda: {"precision": "bf16-mixed"},
        hard=True,
    ),
    on_rows(
        "bf16_encoder",
        lambda: Encoder(2),
        adamw(3e-3),
        trainer=lambda: {"precision": "bf16-mixed"},
        steps=120,
        hard=True,
    ),
    on_images(
        "fp16_conv_net", lambda: ConvNet([8, 12], F.silu), adam(5e-3), trainer=fp16(2.0**23, 30), steps=160, hard=True
    ),
    on_text("fp16_gpt", lambda: small_gpt(activation="silu"), adamw(8e-3), trainer=fp16(2.0**28, 45), hard=True),
    on_cancer(
        "accumulation_batch_norm",
        lambda: dense([30, 20, 20, 2], nn.ELU, nn.BatchNorm1d),
        adam(5e-3),
        batch_size=8,
        steps=120,
        trainer=lambda: {"accumulate_grad_batches": 4},
        hard=True,
    ),
    on_text(
        "accumulation_gpt",
        small_gpt,
        adam(1e-2),
        batch_size=6,
        trainer=lambda: {"accumulate_grad_batches": 4},
        hard=True,
    ),
    on_spirals(
        "batch_of_two_spirals",
        lambda: dense([2, 48, 48, 2], nn.Tanh, nn.LayerNorm),
        adam(3e-3),
        batch_size=2,
        hard=True,
    ),
    on_wine("batch_of_two_wine", lambda: dense([13, 24, 3], nn.ELU), adamw(2e-3), batch_size=2, steps=500, hard=True),
    on_digits("blank_batch", lambda: dense([64, 48, 48, 10], nn.LeakyReLU), sgd(0.1), corrupt=blank, hard=True),
    on_friedman(
        "far_targets", lambda: dense([10, 48, 48, 1]), optimizer("RAdam", 1e-2), corrupt=far_targets, hard=True
    ),
    on_rows(
        "one_class_batch", lambda: Stacked(nn.GRU, 8, 10, 1), adam(1e-2), corrupt=one_class, twin="lstm", hard=True
    ),
    on_bags("linear_frequencies", Frequencies, adam(2e-2), hard=True),
    on_friedman(
        "linear_friedman", lambda: nn.Linear(10, 1), optimizer("Adadelta", 1.0), twin="linear_friedman", hard=True
    ),
    on_friedman(
        "deep_residual_friedman",
        lambda: ResidualMLP(10, 1, width=16, depth=24, activation="gelu"),
        adam(2e-3),
        steps=150,
        hard=True,
    ),
    on_spirals("deep_residual_spirals", lambda: Layered(2, 2, 20), adam(3e-3), hard=True),
    Recipe("gan_crescent", SpectralAdversarial, crescent, "gan_crescent", steps=600, hard=True),
    # Further ones
    _recipe(
        "poisson_counts",
        lambda: dense([3, 24, 24, 1], nn.SiLU),
        adam(5e-3),
        make=numbers,
        objective=lambda o, t: F.mse_loss(o.clamp(max=4.0).exp(), t),
        loss=poisson,
        data=counts,
        twin="poisson_counts",
    ),
    _recipe(
        "digit_bits",
        lambda: dense([64, 48, 4]),
        adam(5e-3),
        make=numbers,
        objective=lambda o, t: F.mse_loss(o.sigmoid(), t),
        loss=F.binary_cross_entropy_with_logits,
        data=digit_bits,
        twin="digit_bits",
    ),
    _recipe("rare_class", lambda: dense([64, 24, 2], nn.GELU), adam(3e-3), data=rare_class, twin="rare_class"),
    _recipe("rare_domain", Domains, adam(5e-3), make=numbers, data=domains, twin="rare_domain", batch_size=24),
    on_friedman("pinball", lambda: dense([10, 40, 1], nn.Mish), adam(1e-2), loss=pinball),
    on_friedman(
        "negative_loss",
        lambda: dense([10, 40, 2], nn.Tanh),
        adam(1e-2),
        objective=lambda o, t: F.mse_loss(o[:, :1], t),
        loss=likelihood,
    ),
    on_cancer("batch_of_one", lambda: dense([30, 24, 2], nn.Tanh), sgd(0.02), batch_size=1, steps=900),
    reconstructing("denoising", lambda: dense([64, 80, 24, 64], nn.GELU), adam(3e-3), corrupt=with_noise),
    on_digits("erased_pixels", lambda: dense([64, 96, 10], nn.ELU), optimizer("Adamax", 1e-2), corrupt=erased),
    on_digits("stochastic_depth", lambda: StochasticDepth(5, 0.3), adam(3e-3)),
    Recipe("taking_turns", TakingTurns, data.digits, "mlp_adam"),
    on_digits("slow_first_layer", lambda: dense([64, 64, 48, 10], nn.SiLU), slow_first_layer),
    on_digits("cosine_logits", CosineLogits, adam(5e-3)),
    _recipe(
        "dilated",
        Dilated,
        adam(1e-2),
        data=data.digit_pixels,
        twin="dilated",
        batch_size=25,
        steps=160,
    ),
    on_spirals(
        "bumps",
        lambda: nn.Sequential(nn.Linear(2, 96), Apply(lambda h: (-h.square()).exp()), nn.Linear(96, 2)),
        adam(2e-2),
    ),
    on_wine("hard_tanh", lambda: initialized(dense([13, 24, 3], nn.Hardtanh), xavier()), rmsprop(3e-3)),
    _recipe(
        "pixels_signs",
        lambda: dense([64, 64, 10], nn.SELU),
        optimizer("Rprop", 2e-3),
        data=pixels,
        twin="pixels",
        batch_size=640,
        steps=120,
    ),
]
