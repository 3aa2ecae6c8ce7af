import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.quadratics import dense_hessian
from helpers.runs import Regression, batches, fit, loader, trainer
from torch import nn
from torchmetrics import MeanMetric

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.callbacks import HessianSpectrum


class Eventful(Regression):
    """Everything that a probe could disturb: dropout, batch statistics, metrics, logs, counters, lists."""

    def __init__(self, **settings):
        super().__init__(
            lambda: nn.Sequential(
                nn.Linear(4, 8),
                nn.BatchNorm1d(8),
                nn.Tanh(),
                nn.Dropout(0.3),
                nn.Linear(8, 8),
                nn.Tanh(),
                nn.Linear(8, 1),
            ),
            **settings,
        )
        self.mean = MeanMetric()
        self.calls, self.losses = 0, []
        self.register_buffer("seen", torch.zeros(()))

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.calls += 1
        self.losses.append(loss.item())
        self.seen = self.seen + 1
        self.mean.update(loss.detach())
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.log("mean", self.mean)
        return loss


def train(module_type, *callbacks, seed=0, **settings):
    torch.manual_seed(seed)
    module = module_type()
    run = fit(module, *callbacks, **{"max_epochs": 2, **settings})
    return module, run, torch.get_rng_state()


@pytest.mark.parametrize("options", [{}, {"density": 60, "trace": True}, {"per_layer": True}, {"source": "train"}])
def test_training_is_the_same_bit_by_bit(tmp_path, options):
    callback = HessianSpectrum(every_n_steps=2, rtol=1e-2, **options)
    plain, run, state = train(Eventful, default_root_dir=tmp_path)
    watched, watched_run, watched_state = train(Eventful, callback, default_root_dir=tmp_path)
    assert callback.failure is None
    assert len(callback.history) == 6
    assert "one-sided" in callback.latest.method  # so weights were moved, and put back
    assert torch.equal(state, watched_state)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name
    for ours, theirs in zip(plain.parameters(), watched.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)  # validation at the end lets go of them
    assert plain.calls == watched.calls == 12
    assert plain.losses == watched.losses
    logged = {key: value for key, value in watched_run.logged_metrics.items() if not key.startswith("curvature/")}
    assert logged == run.logged_metrics
    assert all(module.training for module in watched.net.modules())


class Smooth(Regression):
    def __init__(self, optimizer=torch.optim.SGD, **settings):
        super().__init__(lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)), optimizer, **settings)


def test_logged_values_are_those_of_the_dense_hessian():
    callback = HessianSpectrum(every_n_epochs=1, rtol=1e-5, trace=True, per_layer=True, num_batches=2)
    module, run, _ = train(lambda: Smooth(momentum=0.9), callback, max_epochs=1)
    (step, values), data = callback.history[0], batches()
    assert step == 6

    def loss():
        return (F.mse_loss(module.net(data[0][0]), data[0][1]) + F.mse_loss(module.net(data[1][0]), data[1][1])) / 2

    parameters = list(module.parameters())
    exact, axes = torch.linalg.eigh(dense_hessian(loss, parameters).double())
    top = exact.abs().argsort(descending=True)[:5]
    found = [values[f"curvature/eigenvalue_{i}"] for i in range(5)]
    assert found == pytest.approx(exact[top].tolist(), rel=2e-4)
    assert values["curvature/sharpness"] == pytest.approx(float(exact[-1]), rel=2e-4)
    assert values["curvature/sharpness_times_lr"] == pytest.approx(0.01 * float(exact[-1]), rel=2e-4)
    assert values["curvature/stability"] == pytest.approx(0.01 * float(exact[-1]) / 3.8, rel=2e-4)
    assert values["curvature/trace"] == pytest.approx(float(exact.sum()), rel=1e-3)
    assert values["curvature/probe_loss"] == pytest.approx(loss().item(), rel=1e-5)
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss(), parameters)]).double()
    cosine = float((axes[:, top].T @ gradient).norm() / gradient.norm())
    assert values["curvature/gradient_cosine"] == pytest.approx(cosine, rel=1e-3)
    for name in ("0", "2"):
        block = [p for key, p in module.net.named_parameters() if key.startswith(name)]
        eigenvalues = torch.linalg.eigvalsh(dense_hessian(loss, block).double())
        largest = eigenvalues[eigenvalues.abs().argmax()]
        assert values[f"curvature/top_eigenvalue/net.{name}"] == pytest.approx(float(largest), rel=1e-3)
    assert float(run.callback_metrics["curvature/sharpness"]) == pytest.approx(values["curvature/sharpness"])


def test_adam_is_judged_in_its_own_metric():
    callback = HessianSpectrum(every_n_epochs=1, rtol=1e-5)
    module, run, _ = train(lambda: Smooth(torch.optim.Adam), callback, max_epochs=1)
    (x, y), values = batches()[0], callback.history[0][1]
    hessian = dense_hessian(lambda: F.mse_loss(module.net(x), y), list(module.parameters()))
    state = run.optimizers[0].state
    second = torch.cat([state[p]["exp_avg_sq"].reshape(-1) for p in module.parameters()]) / (1 - 0.999**6)
    eigenvalues = torch.linalg.eigvals(hessian / (second.sqrt() + 1e-8)[:, None]).real
    assert values["curvature/preconditioned_sharpness"] == pytest.approx(float(eigenvalues.max()), rel=1e-3)
    assert values["curvature/stability"] == pytest.approx(0.01 * float(eigenvalues.max()) / 38, rel=1e-3)


def test_density_leaves_arrays_and_a_figure(tmp_path):
    from lightning.pytorch.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, name="", version="")
    callback = HessianSpectrum(every_n_epochs=1, density=60)
    train(Smooth, callback, max_epochs=1, logger=logger, default_root_dir=tmp_path)
    assert callback.failure is None
    with np.load(tmp_path / "hessian_spectrum" / "step_6.npz") as arrays:
        assert arrays["weights"].sum() == pytest.approx(1)
        assert len(arrays["support"]) == len(arrays["weights"])
        assert len(arrays["eigenvalues"]) == len(arrays["bounds"]) == 5
    logger.experiment.flush()
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload()
    assert "curvature/density" in events.Tags()["images"]
    assert {"curvature/sharpness", "curvature/negative_share", "curvature/trace"} <= set(events.Tags()["scalars"])


def test_a_run_too_short_for_its_share_is_told_so(caplog):
    callback = HessianSpectrum()
    with caplog.at_level("INFO"):
        _, run, _ = train(Smooth, callback)
    assert not callback.history
    assert run.callback_metrics["curvature/overhead"] == 0
    assert "too short for a computation within max_overhead=0.02" in caplog.text


def test_an_interrupt_leaves_training_able_to_go_on(monkeypatch):
    def interrupted(self, trainer, pl_module, _precision):
        for parameter in pl_module.parameters():
            parameter.grad = torch.ones_like(parameter)
        raise KeyboardInterrupt

    monkeypatch.setattr(HessianSpectrum, "_measure", interrupted)
    plain = train(Eventful)[0]
    with pytest.warns(UserWarning, match="was interrupted; training goes on"):
        watched = train(Eventful, HessianSpectrum(every_n_steps=5))[0]
    assert watched.calls == 12
    for name, value in plain.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name])


def test_its_own_failure_does_not_stop_training(monkeypatch):
    monkeypatch.setattr(HessianSpectrum, "_measure", lambda *_: 1 / 0)
    with pytest.warns(UserWarning, match="HessianSpectrum is off for the rest of this run.*division by zero"):
        module, _, _ = train(Eventful, HessianSpectrum(every_n_steps=1))
    assert module.calls == 12


def test_a_run_beyond_its_bound_is_warned_of():
    callback = HessianSpectrum(every_n_steps=1)
    with pytest.warns(UserWarning, match=r"of its bound of\s+stability.*lower the learning rate"):
        train(lambda: Smooth(lr=1.5), callback, max_epochs=1)
    stable = HessianSpectrum(every_n_steps=1)
    train(lambda: Smooth(lr=0.01), stable, max_epochs=1)  # warnings are errors
    assert all(values["curvature/stability"] < 1 for _, values in stable.history)


def test_what_cannot_work_is_refused_by_name():
    class Manual(Smooth):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

    with pytest.raises(ArgumentError, match=r"Manual\.automatic_optimization=False"):
        train(Manual, HessianSpectrum(every_n_steps=1))
    with pytest.raises(ArgumentError, match="precision=bf16-true"):
        train(Smooth, HessianSpectrum(every_n_steps=1), precision="bf16-true")


def test_mixed_precision_is_probed_in_float32():
    callback = HessianSpectrum(every_n_epochs=1, rtol=1e-5)
    module, _, _ = train(Smooth, callback, max_epochs=1, precision="bf16-mixed")
    x, y = batches()[0]
    exact = torch.linalg.eigvalsh(dense_hessian(lambda: F.mse_loss(module.net(x), y), list(module.parameters())))
    assert callback.history[0][1]["curvature/sharpness"] == pytest.approx(float(exact[-1]), rel=1e-4)


def test_a_training_step_without_a_batch_index():
    class Short(Smooth):
        def training_step(self, batch):
            return super().training_step(batch, 0)

    callback = HessianSpectrum(every_n_steps=3)
    train(Short, callback)
    assert callback.failure is None
    assert callback.history


def test_recurrent_layers_flash_attention_and_accumulation():
    class Recurrent(Regression):
        def __init__(self):
            super().__init__(lambda: nn.ModuleList([nn.GRU(4, 6, batch_first=True), nn.Linear(6, 1)]))

        def training_step(self, batch, batch_idx):
            x, y = batch
            hidden, _ = self.net[0](x[:, None].expand(-1, 3, -1))
            mixed = F.scaled_dot_product_attention(hidden, hidden, hidden)
            return F.mse_loss(self.net[1](mixed.mean(1)), y)

        def validation_step(self, batch, batch_idx):
            return self.training_step(batch, batch_idx)

    callback = HessianSpectrum(every_n_steps=1, top_k=2)
    train(Recurrent, callback, max_epochs=1, accumulate_grad_batches=3)
    assert callback.failure is None
    assert [step for step, _ in callback.history] == [0, 1]
    assert all(values["curvature/converged"] for _, values in callback.history)
    assert callback.latest.method.startswith("retained graph")


@pytest.mark.parametrize("whole", [True, False], ids=["module", "network"])
def test_a_compiled_module_is_probed_eagerly_and_trains_on_as_compiled(whole):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    class Compiled(Smooth):
        def __init__(self):
            super().__init__()
            if whole:
                self.net.compile(backend=backend)
            else:
                self.net = torch.compile(self.net, backend=backend)

    eager = HessianSpectrum(every_n_steps=2, rtol=1e-5)
    train(Smooth, eager)
    torch.compiler.reset()
    plain, _, _ = train(Compiled)
    before = len(graphs)
    callback = HessianSpectrum(every_n_steps=2, rtol=1e-5)
    torch.compiler.reset()
    watched, _, _ = train(Compiled, callback)
    assert before == len(graphs) - before  # a graph for each training, none for the probes
    assert callback.latest.method.startswith("retained graph")
    assert [values["curvature/sharpness"] for _, values in callback.history] == pytest.approx(
        [values["curvature/sharpness"] for _, values in eager.history], rel=1e-3
    )
    for ours, theirs in zip(plain.parameters(), watched.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "arguments",
    [{"every_n_steps": 0}, {"max_overhead": 1.0}, {"top_k": 0}, {"which": "most"}, {"source": "test"}, {"method": "x"}],
)
def test_bad_arguments_are_named(arguments):
    (name,) = arguments
    with pytest.raises(ArgumentError, match=rf"^{name}="):
        HessianSpectrum(**arguments)
    with pytest.raises(ArgumentError, match="must be only one"):
        HessianSpectrum(every_n_steps=1, max_overhead=0.1)
    assert math.isclose(HessianSpectrum().max_overhead, 0.02)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_the_batch_is_the_first_that_has_a_loss_and_the_loader_is_not_asked_for_it():
    class NoneAtFirst(Smooth):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return None if self.training and batch_idx in (0, 1, 4) else loss

    drawn = []

    class Counted(torch.utils.data.Dataset):
        data = batches()

        def __len__(self):
            return len(self.data)

        def __getitem__(self, index):
            drawn.append(index)
            return self.data[index]

    module, callback = NoneAtFirst(), HessianSpectrum(every_n_steps=1, top_k=1)
    run = trainer(callback)
    run.fit(module, torch.utils.data.DataLoader(Counted(), batch_size=None), loader(batches(2)))
    assert callback.failure is None
    assert drawn == list(range(6))
    assert [step for step, _ in callback.history] == [2, 3, 4, 5]
    losses = [values["curvature/probe_loss"] for _, values in callback.history]
    assert len(set(losses)) > 1  # the model's change, of one batch: the fifth step changed nothing
    assert losses[1] == losses[2]


@pytest.mark.filterwarnings("ignore:You are using the `dataloader_iter` step flavor")
def test_a_training_step_that_takes_the_iterator_is_refused():
    class Iterating(Regression):
        def training_step(self, dataloader_iter):
            batch, *_ = next(dataloader_iter)
            return super().training_step(batch, 0)

    with pytest.raises(ArgumentError, match=r"Iterating\.training_step takes dataloader_iter"):
        fit(Iterating(), HessianSpectrum(every_n_steps=1))
