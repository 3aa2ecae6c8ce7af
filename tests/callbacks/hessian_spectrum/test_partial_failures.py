"""What fails or is unknown costs its own keys and no others; what a computation held is let go of."""

import gc
import importlib
import logging
import warnings
import weakref

import pytest
import torch
import torch.nn.functional as F
from helpers.quadratics import dense_hessian
from helpers.runs import Regression, batches, fit
from torch import nn

import lightning_gradtools.callbacks.hessian_spectrum.measurement as measurement
from lightning_gradtools._lightning.repeated_warnings import once_each
from lightning_gradtools.callbacks import HessianSpectrum
from lightning_gradtools.curvature import hessian, method
from lightning_gradtools.curvature.lanczos import Lanczos

_OF_THE_BOUND = {"curvature/stability", "curvature/sharpness_times_lr", "curvature/preconditioned_sharpness"}


def smooth():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))


def matrices():
    return nn.Sequential(nn.Linear(4, 6, bias=False), nn.Tanh(), nn.Linear(6, 1, bias=False))


class Lonely(nn.Sequential):
    """One part of it is never used."""

    def __init__(self):
        super().__init__(*smooth(), nn.Linear(3, 3))

    def forward(self, x):
        return self[2](self[1](self[0](x)))


class Looked(nn.Module):
    """An embedding beside a linear layer."""

    def __init__(self, sparse):
        super().__init__()
        self.embedding, self.first, self.last = nn.Embedding(3, 6, sparse=sparse), nn.Linear(4, 6), nn.Linear(6, 1)

    def forward(self, x):
        return self.last(torch.tanh(self.first(x) + self.embedding((x[:, 0] > 0).long())))


class UsersOwn(torch.optim.Optimizer):
    """Has no setting at all, and state by other names."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, {})
        self.rate = lr

    def step(self, closure=None):
        loss = closure()
        for parameter in self.param_groups[0]["params"]:
            parameter.data.add_(parameter.grad, alpha=-self.rate)
        return loss


class ThatIsAdam(torch.optim.Adam):
    """Inherits its step."""


class Quantised(torch.optim.Adam):
    """Keeps its second moments in bytes between steps, as 8-bit optimizers do, and takes Adam's step."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, lr)
        self.register_step_pre_hook(self.unpack)
        self.register_step_post_hook(self.pack)

    @staticmethod
    def unpack(optimizer, *_):
        for state in optimizer.state.values():
            state["exp_avg_sq"] = state["exp_avg_sq"].float().div(255).square()

    @staticmethod
    def pack(optimizer, *_):
        for state in optimizer.state.values():
            state["exp_avg_sq"] = state["exp_avg_sq"].sqrt().mul(255).byte()


def spectrum(net, optimizer, module_type=Regression, *, root=None, **options):
    torch.manual_seed(0)
    callback = HessianSpectrum(every_n_steps=2, top_k=2, **options)
    fit(module_type(net, optimizer), callback, default_root_dir=root)
    assert callback.failure is None
    assert len(callback.history) == 3
    assert all("curvature/eigenvalue_1" in values for _, values in callback.history)
    return callback


@pytest.mark.parametrize(
    ("net", "optimizer"),
    [
        (smooth, torch.optim.Adafactor),
        (smooth, torch.optim.Adamax),
        (smooth, torch.optim.RAdam),
        (smooth, torch.optim.NAdam),
        (smooth, torch.optim.LBFGS),
        (smooth, UsersOwn),
        (matrices, torch.optim.Muon),
        (lambda: Looked(True), lambda parameters, lr: torch.optim.SparseAdam(list(parameters)[:1], lr)),
    ],
)
def test_an_unknown_bound_costs_its_keys_and_is_said_once(net, optimizer, caplog):
    with caplog.at_level(logging.INFO):
        found = spectrum(net, optimizer)
    assert all(not _OF_THE_BOUND & values.keys() for _, values in found.history)
    assert caplog.text.count("no bound of stability is known") == 1


@pytest.mark.parametrize(
    ("net", "optimizer"),
    [
        (Lonely, torch.optim.Adam),
        (smooth, lambda parameters, lr: torch.optim.Adam(parameters, lr, amsgrad=True)),
        (smooth, lambda parameters, lr: torch.optim.Adam(parameters, torch.tensor(lr))),
        (smooth, ThatIsAdam),
        (lambda: Looked(True), torch.optim.SGD),
        (lambda: Looked(False), torch.optim.AdamW),
    ],
)
def test_a_known_bound_is_there_whatever_has_no_gradient(net, optimizer, caplog):
    with caplog.at_level(logging.INFO):
        found = spectrum(net, optimizer)
    assert all("curvature/stability" in values for _, values in found.history)
    assert "no bound" not in caplog.text


def test_a_metric_that_cannot_be_costs_its_keys_and_is_told_once():
    """Without ε Adam divides by nothing where there was never a gradient: the row of an embedding not looked up."""
    with pytest.warns(UserWarning, match="curvature/stability is absent where it fails") as told:
        found = spectrum(lambda: Looked(False), lambda parameters, lr: torch.optim.Adam(parameters, lr, eps=0.0))
    assert len([each for each in told if "HessianSpectrum" in str(each.message)]) == 1
    assert all(not _OF_THE_BOUND & values.keys() for _, values in found.history)
    assert all("curvature/probe_loss" in values for _, values in found.history)


def test_quantised_moments_cost_the_bound_and_are_named_once():
    with pytest.warns(UserWarning, match="optimizer=Quantised: its second moments") as told:
        found = spectrum(smooth, Quantised)
    assert len([each for each in told if "HessianSpectrum" in str(each.message)]) == 1
    assert all(not _OF_THE_BOUND & values.keys() for _, values in found.history)


@pytest.mark.parametrize("part", ["trace", "density"])
def test_a_trace_or_density_that_fails_costs_its_own_keys(part, monkeypatch, tmp_path):
    options = {part: 160, "per_layer": True}
    whole = spectrum(smooth, torch.optim.Adam, root=tmp_path / "whole", **options)

    def failing(*_, **__):
        raise MemoryError("no room for probes")

    by_name = importlib.import_module("lightning_gradtools.curvature.hessian_spectrum")  # its function hides it
    monkeypatch.setattr(by_name, f"estimate_{part}", failing)
    with pytest.warns(UserWarning, match=f"curvature/{part}.* absent where it fails: MemoryError: no room") as told:
        found = spectrum(smooth, torch.optim.Adam, root=tmp_path / "part", **options)
    assert len([each for each in told if "HessianSpectrum" in str(each.message)]) == 1
    lost = {"curvature/trace", "curvature/trace_error"} | ({"curvature/negative_share"} if part == "density" else set())
    cost = {"curvature/seconds", "curvature/gradients", "curvature/condition_number"}
    for (_, complete), (_, values) in zip(whole.history, found.history, strict=True):
        assert complete.keys() - values.keys() == lost
        for key in values.keys() - cost:
            assert values[key] == pytest.approx(complete[key], rel=1e-2), key
    assert found.latest.trace is None
    assert bool(list((tmp_path / "whole").rglob("step_*.npz"))) == (part == "density")
    assert not list((tmp_path / "part").rglob("step_*.npz"))


def test_a_layer_that_fails_costs_its_own_key(monkeypatch):
    real = measurement.hessian_operator

    def failing(losses, parameters, **options):
        if len(parameters) == 2 and parameters[0].shape == (6, 4):
            raise RuntimeError("no room for this layer")
        return real(losses, parameters, **options)

    monkeypatch.setattr(measurement, "hessian_operator", failing)
    with pytest.warns(UserWarning, match="no room for this layer") as told:
        found = spectrum(smooth, torch.optim.SGD, per_layer=True)
    assert len([each for each in told if "HessianSpectrum" in str(each.message)]) == 1
    for _, values in found.history:
        assert {key for key in values if "top_eigenvalue" in key} == {"curvature/top_eigenvalue/net.2"}
        assert "curvature/stability" in values


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_layers_are_frozen_and_unfrozen_while_training_goes_on(optimizer):
    class Thawing(Regression):
        def on_train_batch_start(self, batch, batch_idx):
            self.net[0].requires_grad_(batch_idx not in (2, 3))

    found = spectrum(smooth, optimizer, Thawing, per_layer=True)
    layers = [{key[-1] for key in values if "top_eigenvalue" in key} for _, values in found.history]
    assert layers == [{"0", "2"}, {"2"}, {"0", "2"}]
    assert all("curvature/stability" in values for _, values in found.history)


def test_the_spectrum_of_what_is_trainable_now_is_the_dense_one():
    class Frozen(Regression):
        def on_train_batch_start(self, batch, batch_idx):
            self.net[0].requires_grad_(batch_idx < 4)

    torch.manual_seed(0)
    module, callback = Frozen(smooth, torch.optim.SGD), HessianSpectrum(every_n_steps=2, top_k=2, rtol=1e-5)
    fit(module, callback)
    x, y = batches()[0]
    exact = torch.linalg.eigvalsh(dense_hessian(lambda: F.mse_loss(module.net(x), y), list(module.net[2].parameters())))
    values = callback.history[-1][1]
    assert [values["curvature/eigenvalue_0"], values["curvature/eigenvalue_1"]] == pytest.approx(
        exact.flip(0)[:2].tolist(), rel=1e-4
    )
    assert callback.latest.dimension == 7


def test_a_computation_starts_from_the_last_ones_eigenvectors():
    still = HessianSpectrum(every_n_steps=1, top_k=2, rtol=1e-6, stability=False)
    torch.manual_seed(0)
    fit(Regression(smooth, lambda parameters, lr: torch.optim.SGD(parameters, 0.0)), still)
    spent = [values["curvature/gradients"] for _, values in still.history]
    assert max(spent[1:]) < spent[0]


def test_a_failure_leaves_no_graph_and_no_basis_behind(monkeypatch):
    held, alive = [], []

    class Mark:
        pass

    class Watching(Regression):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            if callback.failure is None and self.trainer.global_step == 2:  # of the probe, and of its graph
                loss.grad_fn.metadata["mark"] = mark = Mark()  # lives as long as the node of the graph
                held.append(weakref.ref(mark))
            return loss

        def on_train_batch_start(self, batch, batch_idx):
            if callback.failure is not None:
                gc.collect()
                alive.append(sum(reference() is not None for reference in held))

    class Failing(hessian.RetainedHessian):
        products = 0

        def matvec(self, vector):
            held.append(weakref.ref(self))
            self.products += 1
            if self.products == 3:
                raise ArithmeticError("the third product")
            return super().matvec(vector)

    step = Lanczos.step

    def watched(self):
        held.extend(map(weakref.ref, [self, self.basis()]))
        step(self)

    monkeypatch.setattr(method, "RetainedHessian", Failing)
    monkeypatch.setattr(Lanczos, "step", watched)
    callback = HessianSpectrum(every_n_steps=2)
    with pytest.warns(UserWarning, match="the third product"):
        fit(Watching(smooth, torch.optim.SGD), callback)
    assert len(held) >= 10
    assert alive
    assert alive[0] == 0


class Repeating(Regression):
    """Warns in every step, in one that a computation takes too, and forgets like libraries what was shown."""

    def training_step(self, batch, batch_idx):
        warnings.warn("said at each step", UserWarning, stacklevel=2)
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("way", ["fresh", "finite_difference"])
def test_a_warning_in_every_product_is_given_once(way):
    def shown(*callbacks):
        torch.manual_seed(0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fit(Repeating(smooth, torch.optim.SGD), *callbacks)
        return sum("said at each step" in str(each.message) for each in caught)

    callback = HessianSpectrum(every_n_steps=2, method=way)
    assert shown() == 6
    assert shown(callback) == 7
    assert callback.failure is None
    assert len(callback.history) == 3


def test_a_warning_that_is_an_error_is_one_in_a_product_too():
    with warnings.catch_warnings(), once_each(set()):
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="refused"):
            warnings.warn("refused", UserWarning, stacklevel=1)
