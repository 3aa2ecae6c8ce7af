"""Broken contracts between data, network and loss are named at the first step; repaired and odd ones are not."""

import ast
import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from helpers import contract_cases as cases
from helpers.contract_cases import (
    BATCH,
    SAMPLES,
    Supervised,
    batches,
    bits,
    classes,
    inputs,
    mlp,
    numbers,
    of_contracts,
    one_hot,
    seen,
    told,
)
from helpers.launcher import launch
from helpers.pathology_cases import watch
from helpers.runs import trainer
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from lightning_gradtools.callbacks import PathologyDetector
from lightning_gradtools.diagnosis import Kind


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def nll_of(function):
    return lambda z, y: F.nll_loss(function(z), y)


# What is found, at which layer and how bad, then the program, and its repair, which is silent.
BROKEN = {
    "softmax over one unit": (
        ("output_mismatch", "net.2", "critical"),
        lambda: cases.softmax_over_one(),
        lambda: (mlp(1, nn.Sigmoid()), F.binary_cross_entropy, inputs(), bits()),
    ),
    "log-softmax over one unit, and a view": (
        ("output_mismatch", "net.2", "critical"),
        lambda: (mlp(1, nn.LogSoftmax(-1), nn.Flatten(0)), F.mse_loss, inputs(), numbers()[:, 0]),
        lambda: (mlp(1, nn.Flatten(0)), F.mse_loss, inputs(), numbers()[:, 0]),
    ),
    "softmax before cross_entropy": (
        ("loss_mismatch", "net.2", "warning"),
        lambda: cases.probabilities_to_cross_entropy(),
        lambda: (mlp(3, nn.LogSoftmax(dim=1)), F.cross_entropy, inputs(), classes()),
    ),
    "probabilities by hand before cross_entropy": (
        ("loss_mismatch", "net.2", "warning"),
        lambda: (mlp(3), lambda z, y: F.cross_entropy(z.exp() / z.exp().sum(1, keepdim=True), y), inputs(), classes()),
        lambda: (mlp(3), lambda z, y: F.cross_entropy(z.exp() / 100, y), inputs(), classes()),
    ),
    "sigmoids before cross_entropy": (
        ("loss_mismatch", "net.2", "warning"),
        lambda: (mlp(3, nn.Sigmoid()), F.cross_entropy, inputs(), classes()),
        lambda: (mlp(3), F.cross_entropy, inputs(), classes()),
    ),
    "a softmax and then a log-softmax": (
        ("loss_mismatch", "net.2", "warning"),
        lambda: (mlp(3, nn.Softmax(1), nn.LogSoftmax(1)), F.nll_loss, inputs(), classes()),
        lambda: (mlp(3, nn.LogSoftmax(1)), F.nll_loss, inputs(), classes()),
    ),
    "sigmoid before binary cross-entropy with logits": (
        ("loss_mismatch", "net.2", "warning"),
        lambda: (mlp(1, nn.Sigmoid()), F.binary_cross_entropy_with_logits, inputs(), bits()),
        lambda: (mlp(1), F.binary_cross_entropy_with_logits, inputs(), bits()),
    ),
    "squeezed sigmoid before binary cross-entropy with logits": (
        ("loss_mismatch", "net.2", "warning"),
        lambda: (
            mlp(1, nn.Sigmoid()),
            lambda p, y: F.binary_cross_entropy_with_logits(p.squeeze(1), y[:, 0]),
            inputs(),
            bits(),
        ),
        lambda: (
            mlp(1),
            lambda z, y: F.binary_cross_entropy_with_logits(z.squeeze(1), y[:, 0]),
            inputs(),
            bits(),
        ),
    ),
    "logits for nll_loss": (
        ("loss_mismatch", "net.2", "warning"),
        lambda: (mlp(3), F.nll_loss, inputs(), classes()),
        lambda: (mlp(3), nll_of(lambda z: z.softmax(1).log()), inputs(), classes()),
    ),
    "probabilities for nll_loss": (
        ("loss_mismatch", "net.2", "warning"),
        lambda: (mlp(3, nn.Softmax(1)), F.nll_loss, inputs(), classes()),
        lambda: (mlp(3, nn.Softmax(1)), nll_of(lambda p: (p + 1e-6).log()), inputs(), classes()),
    ),
    "a log-softmax over samples": (
        ("loss_mismatch", "net.2", "warning"),
        lambda: (mlp(3, nn.LogSoftmax(0)), F.nll_loss, inputs(), classes()),
        lambda: (mlp(3), nll_of(lambda z: z.log_softmax(1) - 0.7), inputs(), classes()),  # half is another branch's
    ),
    "one class": (
        ("loss_mismatch", "net.2", "critical"),
        lambda: (mlp(1), F.cross_entropy, inputs(), torch.zeros(SAMPLES, dtype=torch.long)),
        lambda: (mlp(2), F.cross_entropy, inputs(), classes(2)),
    ),
    "every prediction against every target": (
        ("loss_mismatch", "net.2", "warning"),
        lambda: (mlp(1), F.mse_loss, inputs(), numbers()[:, 0]),
        lambda: (mlp(1), F.mse_loss, inputs(), numbers()),
    ),
    "three classes as bits": (
        ("loss_mismatch", "net.2", "warning"),
        lambda: (mlp(1), F.binary_cross_entropy_with_logits, inputs(), classes().float()[:, None]),
        lambda: (mlp(3), F.binary_cross_entropy_with_logits, inputs(), one_hot()),
    ),
    "-1 and 1 as bits": (
        ("loss_mismatch", "net.2", "warning"),
        lambda: (mlp(1), F.binary_cross_entropy_with_logits, inputs(), 2 * bits() - 1),
        lambda: (mlp(1), F.binary_cross_entropy_with_logits, inputs(), bits()),
    ),
    "sigmoid onto any number": (
        ("output_mismatch", "net.2", "warning"),
        lambda: cases.sigmoid_onto_numbers(),
        lambda: (mlp(1, nn.Sigmoid()), F.mse_loss, inputs(), numbers().sigmoid()),
    ),
    "relu onto any number": (
        ("output_mismatch", "net.2", "warning"),
        lambda: (mlp(1, nn.ReLU(inplace=True)), F.l1_loss, inputs(), numbers()),
        lambda: (mlp(1, nn.ReLU(inplace=True)), F.l1_loss, inputs(), numbers().relu()),
    ),
    "tanh onto numbers beyond 1": (
        ("output_mismatch", "net.2", "warning"),
        lambda: (mlp(1, nn.Tanh()), F.smooth_l1_loss, inputs(), 5 * numbers()),
        lambda: (mlp(1, nn.Tanh()), F.smooth_l1_loss, inputs(), numbers().tanh()),
    ),
    "softmax onto numbers of classes": (
        ("output_mismatch", "net.2", "warning"),
        lambda: (mlp(3, nn.Softmax(1)), F.mse_loss, inputs(), classes(4).float()[:, None].repeat(1, 3)),
        lambda: (mlp(3, nn.Softmax(1)), F.mse_loss, inputs(), one_hot()),
    ),
    "softmax onto several labels": (
        ("output_mismatch", "net.2", "warning"),
        lambda: (mlp(3, nn.Softmax(1)), F.binary_cross_entropy, inputs(), (inputs()[:, :3] > 0).float()),
        lambda: (mlp(3, nn.Sigmoid()), F.binary_cross_entropy, inputs(), (inputs()[:, :3] > 0).float()),
    ),
    "numbers for cross_entropy": (
        ("loss_mismatch", "net.2", "warning"),
        lambda: (mlp(3), F.cross_entropy, inputs(), inputs()[:, :3]),
        lambda: (mlp(3), F.cross_entropy, inputs(), inputs()[:, :3].softmax(1)),
    ),
    "relu before cross_entropy": (
        ("output_mismatch", "net.2", "warning"),
        lambda: (mlp(3, nn.ReLU()), F.cross_entropy, inputs(), classes()),
        lambda: (mlp(3, nn.LeakyReLU()), F.cross_entropy, inputs(), classes()),
    ),
    "tanh before cross_entropy": (
        ("output_mismatch", "net.2", "warning"),
        lambda: (mlp(3, nn.Tanh()), F.cross_entropy, inputs(), classes()),
        lambda: (mlp(3, nn.Tanh()), lambda z, y: F.cross_entropy(30 * z, y), inputs(), classes()),  # soft-capped
    ),
    "relu for a probability": (
        ("output_mismatch", "net.2", "warning"),
        lambda: (mlp(1, nn.ReLU()), lambda p, y: F.binary_cross_entropy(p.clamp(1e-6, 1 - 1e-6), y), inputs(), bits()),
        lambda: (mlp(1, nn.Sigmoid()), lambda p, y: F.binary_cross_entropy(p.clamp(1e-6, 0.999), y), inputs(), bits()),
    ),
    "relu and then a sigmoid": (
        ("output_mismatch", "net.2", "warning"),
        lambda: (mlp(1, nn.ReLU(), nn.Sigmoid()), F.binary_cross_entropy, inputs(), bits()),
        lambda: (mlp(1, nn.Sigmoid()), F.binary_cross_entropy, inputs(), bits()),
    ),
    "relu before binary cross-entropy with logits": (
        ("output_mismatch", "net.2", "warning"),
        lambda: (mlp(1), lambda z, y: F.binary_cross_entropy_with_logits(z.clamp(min=0), y), inputs(), bits()),
        lambda: (mlp(1), lambda z, y: F.binary_cross_entropy_with_logits(z.clamp(min=-9), y), inputs(), bits()),
    ),
}


@pytest.mark.filterwarnings("ignore:Using a target size")  # torch's word on crossed shapes
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_contract_is_named_at_the_first_steps_and_its_repair_is_silent(name):
    (kind, layer, severity), broken, repaired = BROKEN[name]
    detector = seen(*broken())
    found = {(str(f.kind), f.layer, str(f.severity)): f for f in detector.findings}
    assert (kind, layer, severity) in found
    finding = found[kind, layer, severity]
    assert finding.step == 0
    assert finding.resolved_at is None
    assert layer in finding.message
    assert finding.remedy[0].code
    for remedy in finding.remedy:
        ast.parse(remedy.code)
    assert not of_contracts(seen(*repaired()))


class Healthy:
    """Programs that look broken and are not; those that may be are told as ``info``."""

    @staticmethod
    def brier_score():
        return mlp(3, nn.Softmax(1)), F.mse_loss, inputs(), one_hot()

    @staticmethod
    def least_squares_on_bits():
        return mlp(1), F.mse_loss, inputs(), bits()

    @staticmethod
    def counts():
        return mlp(1), F.mse_loss, inputs(), torch.poisson(numbers().exp().clamp(max=50))

    @staticmethod
    def ratings():
        return mlp(1), F.l1_loss, inputs(), classes(5).float()[:, None] + 1

    @staticmethod
    def distillation():
        return mlp(3), F.cross_entropy, inputs(), inputs()[:, :3].softmax(1)

    @staticmethod
    def two_labels_of_half_each():
        return mlp(3), F.cross_entropy, inputs(), F.normalize((inputs()[:, :3] > -9).float(), p=1)

    @staticmethod
    def weighted_classes():
        return mlp(3), F.cross_entropy, inputs(), one_hot() * (1 + bits())

    @staticmethod
    def divergence():
        def loss(z, p):
            return F.kl_div(z.log_softmax(1), p, reduction="batchmean")

        return mlp(3), loss, inputs(), inputs()[:, :3].softmax(1)

    @staticmethod
    def label_smoothing():
        return mlp(3), lambda z, y: F.cross_entropy(z, y, label_smoothing=0.1), inputs(), classes()

    @staticmethod
    def smoothed_bits():
        return mlp(1), F.binary_cross_entropy_with_logits, inputs(), 0.9 * bits() + 0.05

    @staticmethod
    def noisy_labels_of_a_discriminator():
        return mlp(1), F.binary_cross_entropy_with_logits, inputs(), 0.7 + 0.5 * inputs(SAMPLES, 1).sigmoid()

    @staticmethod
    def autoencoder_by_bits():
        pixels = inputs(SAMPLES, 16).sigmoid()
        return mlp(16, nn.Sigmoid(), inputs=16), F.binary_cross_entropy, pixels, pixels

    @staticmethod
    def autoencoder_by_squares():
        pixels = inputs(SAMPLES, 16).sigmoid()
        return mlp(16, nn.Sigmoid(), inputs=16), F.mse_loss, pixels, pixels

    @staticmethod
    def tokens():
        text = (1000 * inputs(SAMPLES, 8).sigmoid()).long()
        net = nn.Sequential(nn.Embedding(1000, 8), nn.Flatten(), nn.Linear(64, 3))
        return net, F.cross_entropy, text, classes()

    @staticmethod
    def per_position():
        net = nn.Sequential(nn.Conv1d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 3, 1))
        return net, F.cross_entropy, inputs(SAMPLES, 4, 5), (inputs(SAMPLES, 5) > 0).long()

    @staticmethod
    def images_up_to_255_that_are_normalised():
        net = nn.Sequential(nn.BatchNorm1d(4), *mlp(1))
        return net, F.mse_loss, 255 * inputs().sigmoid(), numbers()

    @staticmethod
    def images_up_to_255_and_then_a_normalisation():
        net = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 1))
        return net, F.mse_loss, 255 * inputs().sigmoid(), numbers()

    @staticmethod
    def targets_with_an_offset():
        return mlp(1), F.mse_loss, inputs(), 14 + 3 * numbers()

    @staticmethod
    def noise_about_the_bound_of_a_relu():
        return mlp(1, nn.ReLU()), F.mse_loss, inputs(), 5 * numbers().relu() + 0.05 * inputs(SAMPLES, 1)

    @staticmethod
    def contrast_with_the_first():
        return mlp(5), F.cross_entropy, inputs(), torch.zeros(SAMPLES, dtype=torch.long)

    @staticmethod
    def two_classes_by_a_softmax():
        return mlp(2, nn.Softmax(1)), lambda p, y: F.binary_cross_entropy(p[:, 1:], y), inputs(), bits()

    @staticmethod
    def many_labels():
        return mlp(3), F.binary_cross_entropy_with_logits, inputs(), (inputs()[:, :3] > 0).float()

    @staticmethod
    def focal_loss_by_hand():
        def loss(z, y):
            p = z.sigmoid()
            right = torch.where(y == 1, p, 1 - p)
            return -((1 - right) ** 2 * right.log()).mean()

        return mlp(1), loss, inputs(), bits()

    @staticmethod
    def swapped_arguments():
        return mlp(1, nn.ReLU()), lambda z, y: F.mse_loss(y, z), inputs(), numbers().relu()

    @staticmethod
    def residual_of_an_equation():
        return mlp(1), lambda z, y: F.mse_loss(z - y, torch.zeros_like(y)), inputs(), numbers()

    @staticmethod
    def softmax_within():
        class Gate(nn.Module):
            def __init__(self):
                super().__init__()
                self.gate, self.expert = nn.Linear(4, 1), nn.Linear(4, 1)

            def forward(self, x):
                return self.gate(x).softmax(1) * self.expert(x)

        return Gate(), F.mse_loss, inputs(), numbers()


@pytest.mark.parametrize("name", [name for name in vars(Healthy) if not name.startswith("_")])
def test_silence_on_contracts_that_look_broken(name):
    detector = seen(*getattr(Healthy, name)())
    assert not of_contracts(detector)
    assert detector.history.contracts


def test_a_data_set_that_forgets_its_index_is_told():
    detector = watch(Supervised(mlp(1), F.mse_loss), data=cases.one_batch_for_ever(), steps=9)
    assert told(detector) == [("repeated_batch", "", 4, "warning", None)]
    repeated = batches(inputs()[:BATCH].repeat(8, 1), numbers()[:BATCH].repeat(8, 1))
    assert of_contracts(watch(Supervised(mlp(1), F.mse_loss), data=repeated, steps=9)) == {("repeated_batch", "")}


def test_a_repeated_batch_on_purpose_is_none():
    x, y = inputs()[:BATCH], numbers()[:BATCH]
    several = inputs(), numbers()
    assert not told(watch(Supervised(mlp(1), F.mse_loss), data=batches(x, y), steps=9))
    assert not told(watch(Supervised(mlp(1), F.mse_loss), data=batches(*several), steps=9, overfit_batches=1))
    given = DataLoader([(x, y)] * 50, batch_size=None)
    assert not told(watch(Supervised(mlp(1), F.mse_loss), data=given, steps=9))


def test_a_stream_of_one_batch_is_only_unusual():
    class Stream(IterableDataset):
        def __iter__(self):
            return itertools.repeat((inputs()[:BATCH], numbers()[:BATCH]))

    detector = watch(Supervised(mlp(1), F.mse_loss), data=DataLoader(Stream(), batch_size=None), steps=9)
    assert [(kind, severity) for kind, _, _, severity, _ in told(detector)] == [("repeated_batch", "info")]


def test_data_that_training_makes_itself_is_no_repeated_batch():
    class Made(Supervised):
        def training_step(self, batch, batch_idx):
            x = torch.randn(BATCH, 4)
            return self.loss(self.net(x), x.sum(1, keepdim=True))

    detector = watch(Made(mlp(1), F.mse_loss), data=batches(torch.zeros(SAMPLES, 4), torch.zeros(SAMPLES, 1)), steps=9)
    assert not told(detector)


def test_unscaled_data_is_unusual_until_training_fails():
    fine = seen(mlp(1), F.mse_loss, 1000 * inputs(), 1000 * numbers(), steps=9)
    assert {(kind, layer, severity) for kind, layer, _, severity, _ in told(fine)} == {
        ("unscaled_data", "net.0", "info"),
        ("unscaled_data", "", "info"),
    }
    net, loss, x, y = cases.large_inputs()
    failing = watch(Supervised(net, loss, lr=1.0), data=batches(x, y), steps=81)
    assert of_contracts(failing) == {("unscaled_data", "net.0")}


def test_the_remedy_for_unscaled_data_scales_it():
    detector = seen(mlp(1), F.mse_loss, 1000 * inputs() + 300, numbers())
    (finding,) = [each for each in detector.findings if each.kind == Kind.UNSCALED_DATA]
    scope = {"x": 1000 * inputs() + 300}
    exec(finding.remedy[0].code, scope)
    assert scope["x"].mean().abs() < 0.2
    assert 0.8 < scope["x"].std() < 1.2


def test_the_remedy_for_targets_out_of_reach_brings_them_within():
    detector = seen(*cases.sigmoid_onto_numbers())
    (finding,) = [each for each in detector.findings if each.kind == Kind.OUTPUT_MISMATCH]
    (scaling,) = [each.code for each in finding.remedy if each.code.startswith("target")]
    scope = {"target": numbers()}
    exec(scaling, scope)
    assert ((scope["target"] > -0.3) & (scope["target"] < 1.3)).float().mean() > 0.95
    assert not of_contracts(seen(mlp(1, nn.Sigmoid()), F.mse_loss, inputs(), scope["target"].clamp(0, 1)))


def test_several_losses_are_compared_with_care():
    """One of them may compare features: what it cannot reach is only unusual while training goes on."""

    def loss(z, y):
        return F.mse_loss(z[:, :1].relu(), y) + F.mse_loss(z[:, 1:], y)

    assert [severity for *_, severity, _ in told(seen(mlp(2), loss, inputs(), numbers()))] == ["info"]


def test_adversaries_that_ask_by_bits_are_healthy():
    class Adversaries(Supervised):
        def __init__(self):
            super().__init__(mlp(4), F.binary_cross_entropy_with_logits)
            self.critic = mlp(1)
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            real, _ = batch
            made = self.net(torch.randn_like(real))
            for optimizer, answers in zip(
                self.optimizers(),
                ([(made, 1.0)], [(made.detach(), 0.0), (real, 1.0)]),
                strict=True,
            ):
                optimizer.zero_grad()
                asked = [(self.critic(x), answer) for x, answer in answers]
                self.manual_backward(sum(self.loss(z, torch.full_like(z, answer)) for z, answer in asked))
                optimizer.step()

        def configure_optimizers(self):
            return [torch.optim.Adam(part.parameters(), lr=1e-3) for part in (self.net, self.critic)]

    detector = watch(Adversaries(), data=batches(inputs(), numbers()), steps=40)
    assert not told(detector)


def test_what_was_found_at_the_first_step_stands_to_the_end():
    net, loss, x, y = cases.probabilities_to_cross_entropy()
    detector = PathologyDetector(1, table=False, on_warning="log", on_critical="log")
    trainer(detector, max_steps=150, max_epochs=-1).fit(Supervised(net, loss), batches(x, y))
    assert ("loss_mismatch", "net.2", 0, "warning", None) in told(detector)
    assert detector.history.observations[0].step > 8


def test_a_resumed_run_remembers_and_a_mended_one_is_judged_anew(tmp_path):
    net, loss, x, y = cases.probabilities_to_cross_entropy()
    first = trainer(PathologyDetector(table=False, on_warning="log"), max_epochs=2)
    first.fit(Supervised(net, loss), batches(x, y))
    first.save_checkpoint(tmp_path / "a.ckpt")

    def resumed(module):
        detector = PathologyDetector(5, table=False, on_warning="log")
        run = trainer(detector, max_epochs=8)
        run.fit(module, batches(x, y), ckpt_path=tmp_path / "a.ckpt", weights_only=False)
        assert detector.failure is None
        return [each for each in told(detector) if each[0] == "loss_mismatch"]

    assert resumed(Supervised(copy.deepcopy(net), loss)) == [("loss_mismatch", "net.2", 0, "warning", None)]
    ((*_, resolved_at),) = resumed(Supervised(copy.deepcopy(net)[:3], loss))
    assert 16 < resolved_at <= 40


def test_contracts_are_looked_at_in_the_first_samples_only():
    detector = watch(Supervised(mlp(1), F.mse_loss), data=batches(inputs(), numbers()), steps=61)
    assert [each.step for each in detector.history.contracts] == [0, 1, 2, 4, 8]


def test_two_processes_find_what_one_finds():
    first, second = launch(cases.in_two)
    assert first == second
    for name, found in cases.alone().items():
        assert found
        assert first[name] == found, name
    found, steps = first["apart"]
    assert [kind for kind, *_ in found] == ["output_mismatch"]
    assert 0 not in steps
