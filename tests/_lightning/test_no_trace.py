"""Training sees the batches, and ends with the weights, that it would have without a probe."""

import math
import queue
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.quadratics import dense_hessian
from helpers.runs import Regression, WrongDouble, batches, loader, trainer
from lightning.pytorch.utilities import CombinedLoader
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, Sampler, TensorDataset

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.callbacks import (
    GradientCheck,
    GradientCheckError,
    GradientMonitor,
    HessianSpectrum,
    PathologyDetector,
    WeightInitialization,
)


def examples():
    x, y = (torch.cat(part) for part in zip(*batches(), strict=True))
    return TensorDataset(x, y)


class Counting(Sampler):
    """Gives another order each time that it is asked, and is advanced by being asked."""

    def __init__(self):
        self.asked = 0

    def __iter__(self):
        self.asked += 1
        return iter(torch.randperm(48, generator=torch.Generator().manual_seed(self.asked)).tolist())

    def __len__(self):
        return 48


class Queued(IterableDataset):
    """Gives each example once."""

    def __init__(self):
        self.queue = queue.Queue()
        for example in examples():
            self.queue.put(example)

    def __iter__(self):
        while not self.queue.empty():
            yield self.queue.get()


class Itself:
    """A loader that is its own iterator."""

    def __init__(self):
        self.data = batches()

    def __iter__(self):
        return self

    def __next__(self):
        if not self.data:
            raise StopIteration
        return self.data.pop(0)


class Shuffling(Sampler):
    """Shuffles what it shuffled before with a generator of its own, as chemprop's."""

    def __init__(self):
        self.order, self.generator = np.arange(48), np.random.default_rng(5)

    def __iter__(self):
        self.generator.shuffle(self.order)
        return iter(self.order.tolist())

    def __len__(self):
        return 48


class ReadOnce(IterableDataset):
    """What comes from somewhere, as a file that was opened, and is then gone."""

    def __init__(self):
        self.source = (example for example in examples())

    def __iter__(self):
        return self.source


class Remembering:
    """A loader that knows where it is, and is asked for it."""

    def __init__(self):
        self.data, self.position = batches(), 0

    def __iter__(self):
        self.position = 0
        while self.position < len(self.data):
            self.position += 1
            yield self.data[self.position - 1]

    def __len__(self):
        return len(self.data)

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


def seeded(seed):
    return DataLoader(examples(), 8, shuffle=True, generator=torch.Generator().manual_seed(seed))


LOADERS = {
    "generator": lambda: seeded(3),
    "sampler": lambda: DataLoader(
        examples(), 8, sampler=RandomSampler(examples(), generator=torch.Generator().manual_seed(4))
    ),
    "counter": lambda: DataLoader(examples(), 8, sampler=Counting()),
    "shuffling": lambda: DataLoader(examples(), 8, sampler=Shuffling()),
    "queue": lambda: DataLoader(Queued(), 8),
    "read once": lambda: DataLoader(ReadOnce(), 8),
    "itself": Itself,
    "remembering": Remembering,
    "dict": lambda: {"first": seeded(3), "second": seeded(4)},
    "combined": lambda: CombinedLoader({"first": seeded(3), "second": loader(batches(4))}, "max_size_cycle"),
}
STREAMS = {"queue", "read once"}


class Recording(Regression):
    def __init__(self):
        super().__init__()
        self.seen = []

    def training_step(self, batch, batch_idx):
        parts = [*batch.values()] if isinstance(batch, dict) else [batch]
        self.seen.append(torch.cat([x for x, _ in parts]))
        return torch.stack([super(Recording, self).training_step(part, batch_idx) for part in parts]).sum()


def train(make, *callbacks, module_type=Recording, **settings):
    torch.manual_seed(0)
    module = module_type()
    run = trainer(*callbacks, **settings)
    run.fit(module, make(), loader(batches(2)))
    return module


OBSERVERS = {
    "spectrum": lambda: HessianSpectrum(every_n_steps=2, top_k=1, rtol=0.1),
    "check": GradientCheck,
    "detector": PathologyDetector,
    "monitor": lambda: GradientMonitor(weight_norm=True, update_ratio=True, cosine=True, histograms=True),
}
SPECTRA = {"first batch": {}, "two batches": {"num_batches": 2}, "validation": {"source": "val"}}


def observers(**probe):
    spectrum = HessianSpectrum(every_n_steps=2, top_k=1, rtol=0.1, **probe)
    return [spectrum, *(make() for name, make in OBSERVERS.items() if name != "spectrum")]


def unseen(plain, watched, callbacks):
    for callback in callbacks:
        assert callback.failure is None
        assert getattr(callback, "history", True)
    assert len(plain.seen) == len(watched.seen) > 0
    assert all(map(torch.equal, plain.seen, watched.seen))
    assert all(map(torch.equal, plain.parameters(), watched.parameters()))


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("probe", SPECTRA)
def test_training_sees_the_batches_that_it_would_have_seen(name, probe):
    epochs = 1 if name in STREAMS | {"itself"} else 2
    callbacks = observers(**SPECTRA[probe])
    plain, watched = (train(LOADERS[name], *watching, max_epochs=epochs) for watching in ([], callbacks))
    assert len(plain.seen) == 6 * epochs
    unseen(plain, watched, callbacks)


@pytest.mark.parametrize("name", sorted(LOADERS.keys() - STREAMS))
def test_initial_weights_take_no_batch_from_training(name):
    plain, initialised = train(LOADERS[name]), train(LOADERS[name], WeightInitialization())
    assert len(initialised.seen) == 6
    assert all(map(torch.equal, plain.seen, initialised.seen))


def test_workers_that_stay_give_what_they_would_have_given():
    data = DataLoader(examples(), 8, shuffle=True, num_workers=1, persistent_workers=True)
    plain, callbacks = train(lambda: data), observers()
    unseen(plain, train(lambda: data, *callbacks), callbacks)
    initialised = train(lambda: data, WeightInitialization())
    assert all(map(torch.equal, plain.seen, initialised.seen))


@pytest.mark.parametrize("name", sorted(STREAMS))
def test_initial_weights_are_refused_where_a_batch_could_only_be_taken_from_training(name):
    with pytest.raises(ArgumentError, match="training data cannot be copied"):
        train(LOADERS[name], WeightInitialization())


class Penalised(Regression):
    """A derivative inside the loss, as of a gradient penalty; and one by the weights, as of a learned rate."""

    def __init__(self):
        super().__init__(lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)), torch.optim.SGD)

    def training_step(self, batch, batch_idx):
        x, y = batch
        x = x.clone().requires_grad_()
        out = self.net(x)
        (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
        torch.autograd.grad(out.mean(), list(self.net.parameters()), retain_graph=True, allow_unused=True)
        return F.mse_loss(out, y) + slope.square().sum(1).mean()


@pytest.mark.parametrize("scheme", ["he", "lsuv"])
def test_a_loss_with_a_derivative_inside_has_its_spectrum_and_is_checked_and_initialised(scheme):
    spectrum, check = HessianSpectrum(every_n_epochs=1, rtol=1e-5), GradientCheck()
    initial = WeightInitialization(scheme)
    module = train(lambda: loader(batches()), spectrum, check, initial, module_type=Penalised)
    assert spectrum.failure is None
    assert check.result.passed
    assert len(initial.result.layers) == 2
    exact = dense_hessian(lambda: module.training_step(batches()[0], 0), list(module.parameters()))
    largest = float(torch.linalg.eigvalsh(exact.double())[-1])
    assert spectrum.history[0][1]["curvature/sharpness"] == pytest.approx(largest, rel=1e-3)


class Functional(Regression):
    """Dropout as a function, and an output that is another one in evaluation mode."""

    def __init__(self):
        super().__init__(lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)), torch.optim.SGD)

    def training_step(self, batch, batch_idx):
        x, y = batch
        out = self.net(F.dropout(x, 0.3, self.training))
        return F.mse_loss(out if self.training else 100 * out, y)


def test_the_spectrum_is_of_the_loss_that_training_follows_at_one_seed():
    spectrum = HessianSpectrum(every_n_epochs=1, rtol=1e-5, seed=7)
    module = train(lambda: loader(batches()), spectrum, module_type=Functional)
    module.train()

    def loss():
        torch.manual_seed(7)
        return module.training_step(batches()[0], 0)

    largest = float(torch.linalg.eigvalsh(dense_hessian(loss, list(module.parameters())).double())[-1])
    assert spectrum.history[0][1]["curvature/sharpness"] == pytest.approx(largest, rel=1e-3)


def in_place(slow, fast):
    with torch.no_grad():
        slow.lerp_(fast, 0.1)


def through_data(slow, fast):  # which counts as no change of `slow`
    slow.data.lerp_(fast.data, 0.1)


def by_new_data(slow, fast):
    slow.data = 0.9 * slow.data + 0.1 * fast.data


class Teacher(Regression):
    """Moves a frozen copy of its network, and a buffer, inside of training_step, as BYOL and DINO do."""

    move = staticmethod(in_place)

    def __init__(self):
        super().__init__(lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)), torch.optim.SGD)
        self.teacher = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)).requires_grad_(False)
        self.register_buffer("centre", torch.zeros(1))

    def training_step(self, batch, batch_idx):
        x, _ = batch
        with torch.no_grad():
            target = self.teacher(x) - self.centre
        loss = F.mse_loss(self.net(x), target)
        for slow, fast in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
            self.move(slow, fast)
        with torch.no_grad():
            self.centre.lerp_(target.mean(0), 0.1)
        return loss


def same_state(one, other):
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


@pytest.mark.parametrize("move", [in_place, through_data, by_new_data])
def test_frozen_weights_that_a_training_step_moves_are_put_back_and_the_loss_is_the_same_each_time(move, monkeypatch):
    monkeypatch.setattr(Teacher, "move", staticmethod(move))
    spectrum, check = HessianSpectrum(every_n_steps=2, top_k=1, rtol=1e-5), GradientCheck()
    data = partial(loader, batches())
    plain, watched = train(data, module_type=Teacher), train(data, spectrum, check, module_type=Teacher)
    assert spectrum.failure is None
    assert len(spectrum.history) == 3
    assert check.result is not None
    assert check.result.passed
    same_state(plain, watched)
    losses = [watched.training_step(batches()[0], 0).item() for _ in range(2)]
    assert losses[0] != losses[1]
    assert spectrum.history[-1][1]["curvature/probe_loss"] == pytest.approx(losses[0], rel=1e-5)


def test_frozen_weights_that_are_moved_now_and_then_are_put_back_where_a_probe_comes_first():
    class Target(Teacher):
        """As of deep Q-learning: replaced every few steps, by the first to run in such a step, which a probe is."""

        def training_step(self, batch, batch_idx):
            if self.global_step % 4 == 2:
                for slow, fast in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
                    slow.data.mul_(0.5).add_(fast.data)
            with torch.no_grad():
                target = self.teacher(batch[0])
            return F.mse_loss(self.net(batch[0]), target)

    data, spectrum = partial(loader, batches()), HessianSpectrum(every_n_steps=2, top_k=1, rtol=0.1)
    plain, watched = train(data, module_type=Target), train(data, spectrum, module_type=Target)
    assert len(spectrum.history) == 3
    same_state(plain, watched)


def clip_data(weight):
    weight.data.clamp_(-0.1, 0.1)


def clip_in_place(weight):
    with torch.no_grad():
        weight.clamp_(-0.1, 0.1)


def clip_to_new_data(weight):
    weight.data = weight.data.clamp(-0.1, 0.1)


class Critic(Regression):
    """Clips its weights in training_step, before the loss, as the critic of a Wasserstein GAN."""

    clip = staticmethod(clip_data)

    def __init__(self):
        super().__init__(lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)), torch.optim.SGD)

    def training_step(self, batch, batch_idx):
        for weight in self.parameters():
            self.clip(weight)
        return super().training_step(batch, batch_idx)


class ManualCritic(Critic):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


CLIPS = [clip_data, clip_in_place, clip_to_new_data]


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("method", ["auto", "finite_difference"])
def test_trained_weights_that_a_training_step_clips_are_put_back_after_a_spectrum(clip, method, monkeypatch):
    monkeypatch.setattr(Critic, "clip", staticmethod(clip))
    data, spectrum = partial(loader, batches()), HessianSpectrum(every_n_steps=2, top_k=1, rtol=1e-5, method=method)
    plain, watched = train(data, module_type=Critic), train(data, spectrum, module_type=Critic)
    assert spectrum.failure is None
    assert len(spectrum.history) == 3
    same_state(plain, watched)
    if method == "auto":
        watched.training_step(batches()[0], 0)  # the spectrum is at the clipped weights, as the gradient is
        exact = dense_hessian(lambda: watched.training_step(batches()[0], 0), list(watched.parameters()))
        largest = float(torch.linalg.eigvalsh(exact.double()).abs().max())
        assert abs(spectrum.history[-1][1]["curvature/eigenvalue_0"]) == pytest.approx(largest, rel=1e-3)


@pytest.mark.parametrize("clip", CLIPS)
def test_a_critic_that_clips_its_weights_is_checked_layer_by_layer_and_left_as_it_was(clip, monkeypatch, caplog):
    monkeypatch.setattr(Critic, "clip", staticmethod(clip))
    data, check = partial(loader, batches()), GradientCheck()
    plain = train(data, module_type=Critic)
    with caplog.at_level("INFO"):
        watched = train(data, check, module_type=Critic)
    assert check.result.passed
    assert check.result.moved[0] == "net.0.bias"
    assert "the loss as a whole was not compared, as training_step changes weights (net.0.bias)" in caplog.text
    same_state(plain, watched)


def test_a_critic_that_optimises_manually_cannot_be_checked_and_is_left_as_it_was():
    data = partial(loader, batches())
    plain = train(data, module_type=ManualCritic)
    with pytest.warns(UserWarning, match="GradientCheck: cannot check ManualCritic: .*automatic_optimization=False"):
        watched = train(data, GradientCheck(), module_type=ManualCritic)
    same_state(plain, watched)


def test_a_wrong_layer_of_a_critic_is_found():
    class Double(nn.Module):
        def forward(self, x):
            return WrongDouble.apply(x)

    class WrongCritic(Critic):
        def __init__(self):
            super().__init__()
            self.net.append(Double())

    with pytest.raises(GradientCheckError, match=r"the gradient of net\.3 \(Double\) in WrongCritic is wrong"):
        train(partial(loader, batches()), GradientCheck(), module_type=WrongCritic)


class Embedded(Regression):
    """An embedding whose rows are rescaled in its forward pass."""

    def __init__(self):
        super().__init__(lambda: nn.Linear(4, 8), torch.optim.SGD)
        self.words = nn.Embedding(8, 8, max_norm=0.5)

    def training_step(self, batch, batch_idx):
        return (self.net(batch[0]) - self.words(torch.arange(8))).square().mean()


def test_an_embedding_with_a_largest_norm_is_no_wrong_gradient_and_is_put_back():
    data = partial(loader, batches())
    spectrum, check = HessianSpectrum(every_n_steps=2, top_k=1, rtol=0.1), GradientCheck()
    plain, watched = train(data, module_type=Embedded), train(data, spectrum, check, module_type=Embedded)
    assert check.result.passed
    assert len(spectrum.history) == 3
    same_state(plain, watched)


def test_a_teacher_that_is_moved_before_its_use_is_not_called_wrong():
    class Early(Teacher):
        def training_step(self, batch, batch_idx):
            with torch.no_grad():
                for slow, fast in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
                    slow.lerp_(fast, 0.3)
            return super().training_step(batch, batch_idx)

    with pytest.warns(UserWarning, match=r"cannot check Early: .*moves frozen weights \(teacher\.0\.bias\)"):
        train(partial(loader, batches()), GradientCheck(), module_type=Early)


class Counted(Regression):
    """Counts and collects on its class, where all of its instances see it."""

    calls, losses = 0, []

    def training_step(self, batch, batch_idx):
        type(self).calls += 1
        loss = super().training_step(batch, batch_idx)
        self.losses.append(loss.detach())
        return loss


@pytest.mark.parametrize("make", [OBSERVERS["spectrum"], GradientCheck, WeightInitialization])
def test_what_a_class_counts_counts_training_only(make, monkeypatch):
    monkeypatch.setattr(Counted, "calls", 0)
    monkeypatch.setattr(Counted, "losses", [])
    train(LOADERS["generator"], make(), module_type=Counted)
    assert Counted.calls == len(Counted.losses) == 6


@pytest.mark.parametrize("make", [OBSERVERS["spectrum"], GradientCheck, WeightInitialization])
def test_a_probe_has_the_default_dtype_of_training(make):
    class MakesTensors(Recording):
        def training_step(self, batch, batch_idx):
            assert torch.get_default_dtype() == torch.float64
            return super().training_step(batch, batch_idx)

    callback = make()
    train(LOADERS["generator"], callback, module_type=MakesTensors, precision="64-true")
    assert getattr(callback, "failure", None) is None
    assert getattr(callback, "history", True)
    assert getattr(callback, "result", True)


def test_the_search_for_a_nan_computes_in_the_precision_of_training():
    class Overflowing(Regression):
        def training_step(self, batch, batch_idx):
            out = self.net(batch[0])
            return out.float().mean() + (math.nan if out.dtype == torch.bfloat16 else 0.0)

    detector = PathologyDetector(on_critical="log", on_warning="log", table=False)
    train(LOADERS["generator"], detector, module_type=Overflowing, precision="bf16-mixed")
    assert [event.direction for event in detector.history.nonfinite] == ["loss"]  # and not "unknown": it came again


class Normed(Regression):
    """Batch statistics, and a loss that is NaN where a target is large."""

    def __init__(self):
        super().__init__(lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 1)), torch.optim.SGD)

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * torch.where(batch[1].max() > 50, math.nan, 1.0)


def test_the_search_for_a_nan_in_a_compiled_module_runs_a_copy_of_it():
    def run(*callbacks):
        torch.manual_seed(0)
        module = Normed()
        data = batches()
        data[5][1][0] = 100
        trainer(*callbacks).fit(torch.compile(module, backend="eager"), loader(data), loader(batches(2)))
        return module.net[1]

    detector = PathologyDetector(on_critical="log", on_warning="log", table=False)
    plain, watched = run(), run(detector)
    assert [event.direction for event in detector.history.nonfinite] == ["loss"]
    assert watched.num_batches_tracked == plain.num_batches_tracked == 6
    assert torch.equal(watched.running_mean, plain.running_mean)
    assert torch.equal(watched.running_var, plain.running_var)
    assert watched.running_var.isfinite().all()


def test_gradients_inside_the_loss_are_not_those_of_the_loss():
    detector = PathologyDetector(every_n_steps=1, on_warning="log", on_critical="log", table=False)
    train(lambda: loader(batches()), detector, module_type=Penalised)
    torch.manual_seed(0)
    reference, outputs = Penalised(), []
    for layer in (reference.net[0], reference.net[2]):
        layer.register_forward_hook(lambda *args: outputs.append(args[-1]))
    loss = reference.training_step(batches()[0], 0)
    expected = [gradient.norm().item() for gradient in torch.autograd.grad(loss, outputs)]
    layers = detector.history.observations[0].layers
    assert [layer.backward for layer in layers] == pytest.approx(expected, rel=1e-5)


def test_the_noise_scale_does_not_count_gradients_inside_the_loss():
    run = trainer(GradientMonitor(1, noise_scale=True), accumulate_grad_batches=2, max_steps=1)
    torch.manual_seed(0)
    run.fit(Penalised(), loader(batches()), loader(batches(2)))
    torch.manual_seed(0)
    reference = Penalised()
    gradients = [
        torch.cat([each.reshape(-1) for each in torch.autograd.grad(loss, list(reference.parameters()))])
        for loss in (reference.training_step(batch, 0) for batch in batches()[:2])
    ]
    small, large = sum(each.square().sum() for each in gradients) / 2, (sum(gradients) / 2).square().sum()
    metrics = run.callback_metrics
    assert metrics["grad_noise/signal"].item() == pytest.approx((2 * large - small).item(), rel=1e-4)
    assert metrics["grad_noise/trace"].item() == pytest.approx((16 * (small - large)).item(), rel=1e-4)
