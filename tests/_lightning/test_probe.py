import signal
import warnings

import pytest
import torch
from helpers.runs import Regression, fit
from torch import nn

from lightning_gradtools._lightning.probe import Restoration, undisturbed
from lightning_gradtools._lightning.random_state import isolated_random_state
from lightning_gradtools.callbacks import HessianSpectrum


def test_each_thing_is_put_back_whatever_the_others_do():
    done, restore = [], Restoration()
    restore.add(lambda: done.append("first"))
    restore.add(lambda: 1 / 0)
    restore.add(lambda: done.append("last"))
    with pytest.raises(ZeroDivisionError):
        restore()
    assert done == ["last", "first"]


def test_an_interrupt_while_putting_back_comes_when_all_is_back():
    done, restore = [], Restoration()
    restore.add(lambda: done.append("first"))
    restore.add(lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        restore()
    assert done == ["first"]


class Eventful(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls, self.seen, self.norm = 0, [], nn.BatchNorm1d(4)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.scripted = torch.jit.script(nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(4)))

    def forward(self, x):
        self.calls += 1
        self.seen.append(self.calls)
        self.new = x
        self.norm.extra = 1
        return self.scripted(self.norm(x)) + torch.randn(())


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_everything_is_as_it_was_with_scripted_parts_too_and_after_an_error(error):
    module = Regression(Eventful)
    module.net.norm.eval()
    module.net(torch.randn(8, 4)).sum().backward()
    names = {name: set(vars(each)) for name, each in module.named_modules() if "scripted" not in name}
    state = {key: value.clone() for key, value in module.state_dict().items()}
    gradients = [parameter.grad for parameter in module.parameters()]
    random = torch.get_rng_state()

    def probe():
        with undisturbed(module):
            assert not module.net.norm.training
            assert module.training  # what is neither dropout nor batch normalisation keeps its mode
            module.log("x", 1.0)  # outside of a Trainer this would be an error
            module.net(torch.randn(8, 4))
            if error is not None:
                raise error

    if error is None:
        probe()
    else:
        with pytest.raises(error):
            probe()
    assert module.net.calls == 1
    assert module.net.seen == [1]
    assert {name: set(vars(each)) for name, each in module.named_modules() if "scripted" not in name} == names
    modes = {name: each.training for name, each in module.named_modules()}
    assert modes.pop("net.norm") is False
    assert all(modes.values())
    for key, value in module.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert all(parameter.grad is old for parameter, old in zip(module.parameters(), gradients, strict=True))
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_spectrum_leaves_scripted_dropout_in_training_mode():
    class Scripted(Regression):
        def __init__(self):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                part = torch.jit.script(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)))
            super().__init__(lambda: nn.Sequential(nn.Linear(4, 8), part, nn.Linear(8, 1)))

    module, spectrum = Scripted(), HessianSpectrum(every_n_steps=2, top_k=1)
    fit(module, spectrum)
    assert spectrum.failure is None
    assert len(spectrum.history) == 3
    assert all(each.training for each in module.modules())


def test_the_random_state_is_put_back_after_an_error_too():
    before = torch.get_rng_state()

    def drawing():
        with isolated_random_state():
            torch.rand(3)
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        drawing()
    assert torch.equal(torch.get_rng_state(), before)
