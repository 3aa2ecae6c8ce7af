"""Adapters trained in float32 on a frozen base in half precision: the spectrum of the same function in float32."""

import copy

import pytest
import torch
import torch.nn.functional as F
from helpers.quadratics import dense_hessian
from helpers.runs import Regression, batches, fit
from torch import nn
from torch.utils.checkpoint import checkpoint

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.callbacks import HessianSpectrum


class Adapted(nn.Module):
    """A linear layer in half precision and its low-rank adapter; ``cast`` says how activations come to the base."""

    def __init__(self, inputs, outputs, cast, dtype):
        super().__init__()
        self.base = nn.Linear(inputs, outputs).to(dtype).requires_grad_(False)
        self.down, self.up = nn.Linear(inputs, 2, bias=False), nn.Linear(2, outputs, bias=False)
        self.cast, self.half = cast, dtype

    def forward(self, x):
        if self.cast == "autocast":  # around it, or no one
            through = self.base(x)
        elif self.cast == "weight":  # as adapters' libraries do
            through = self.base(x.to(self.base.weight.dtype)).to(x.dtype)
        elif self.cast == "method":
            through = self.base(x.half() if self.half is torch.float16 else x.bfloat16()).float()
        else:
            through = self.base(x.to(dtype=self.half)).float()
        return through + self.up(self.down(x))


class Network(nn.Module):
    def __init__(self, cast, dtype=torch.bfloat16, checkpointed=False):
        super().__init__()
        torch.manual_seed(3)
        self.first, self.last = Adapted(4, 6, cast, dtype), Adapted(6, 1, cast, dtype)
        self.register_buffer("shift", torch.full((6,), 0.3, dtype=dtype))
        self.checkpointed = checkpointed

    def forward(self, x):
        hidden = checkpoint(self.first, x, use_reentrant=False) if self.checkpointed else self.first(x)
        return self.last(torch.tanh(hidden + self.shift))


def in_float32(net):
    twin = copy.deepcopy(net).float()
    for layer in (twin.first, twin.last):
        layer.cast = "autocast"
    twin.checkpointed = False
    return twin


def fitted(make, *callbacks, **settings):
    torch.manual_seed(0)
    module = Regression(make, lambda parameters, lr: torch.optim.SGD([p for p in parameters if p.requires_grad], lr))
    fit(module, *callbacks, data=batches(2), limit_val_batches=0, **settings)
    return module


KINDS = {
    "autocast": ({"cast": "autocast"}, {"precision": "bf16-mixed"}),
    "casts to the weight's dtype": ({"cast": "weight"}, {}),
    "casts by a method": ({"cast": "method"}, {}),
    "casts to float16": ({"cast": "dtype", "dtype": torch.float16}, {}),
    "checkpointed": ({"cast": "weight", "checkpointed": True}, {}),
    "checkpointed under autocast": ({"cast": "autocast", "checkpointed": True}, {"precision": "bf16-mixed"}),
}


@pytest.mark.parametrize("method", ["auto", "finite_difference"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_spectrum_is_that_of_the_same_function_in_float32(kind, method):
    options, settings = KINDS[kind]
    callback = HessianSpectrum(every_n_steps=2, top_k=2, method=method)
    module = fitted(lambda: Network(**options), callback, **settings)
    assert callback.failure is None
    assert module.net.first.base.weight.dtype in (torch.bfloat16, torch.float16)
    twin, (x, y) = in_float32(module.net), batches()[0]
    parameters = [parameter for parameter in twin.parameters() if parameter.requires_grad]
    exact = torch.linalg.eigvalsh(dense_hessian(lambda: F.mse_loss(twin(x), y), parameters))
    wanted = exact[exact.abs().argsort(descending=True)][:2].tolist()
    values = callback.history[0][1]
    assert [values["curvature/eigenvalue_0"], values["curvature/eigenvalue_1"]] == pytest.approx(wanted, rel=2e-3)
    assert values["curvature/converged"] == 1
    assert values["curvature/probe_loss"] == pytest.approx(F.mse_loss(twin(x), y).item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["autocast", "casts by a method"])
def test_training_is_the_same_bit_by_bit(kind):
    options, settings = KINDS[kind]
    plain = fitted(lambda: Network(**options), **settings).state_dict()
    watched = fitted(lambda: Network(**options), HessianSpectrum(every_n_steps=1, top_k=1), **settings).state_dict()
    for name, value in plain.items():
        assert watched[name].dtype == value.dtype
        assert torch.equal(watched[name], value), name


def test_trained_weights_in_half_precision_are_refused():
    with pytest.raises(ArgumentError, match=r"net\.2\.weight is trained in torch\.bfloat16"):
        fitted(lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1).bfloat16()), HessianSpectrum(1))


def test_weights_in_half_precision_that_are_unfrozen_end_the_spectra_alone():
    class Thawing(Regression):
        def on_train_batch_start(self, batch, batch_idx):
            self.net.first.base.requires_grad_(batch_idx > 0)

    torch.manual_seed(0)
    module, callback = Thawing(lambda: Network("weight"), torch.optim.SGD), HessianSpectrum(every_n_steps=1, top_k=1)
    with pytest.warns(UserWarning, match=r"net\.first\.base\.weight is trained in torch\.bfloat16"):
        run = fit(module, callback, data=batches(3), limit_val_batches=0)
    assert [step for step, _ in callback.history] == [0]
    assert run.global_step == 3
