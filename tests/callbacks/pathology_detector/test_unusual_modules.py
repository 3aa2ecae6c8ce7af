"""Modules, tensors and precisions that none of our own tasks has: the detector sees past them, and changes nothing."""

import copy
import io
import warnings

import pytest
import torch
import torch.nn.functional as F
from helpers.runs import Regression, batches, fit, loader, trainer
from torch import nn
from torch.func import functional_call, jacrev, vmap
from torch.utils.checkpoint import checkpoint

from lightning_gradtools.callbacks import PathologyDetector


class LossModule(nn.Module):
    """Has a weight, and puts out a loss of no dimension."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x, y):
        return self.scale * F.mse_loss(x, y)


class WithLossModule(Regression):
    def __init__(self):
        super().__init__()
        self.loss = LossModule()

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.loss(self.net(x), y)


class Extra(Regression):
    """Adds something to the loss that has no influence on it."""

    def extra(self, hidden):
        raise NotImplementedError

    def training_step(self, batch, batch_idx):
        x, y = batch
        hidden = self.net[0](x)
        return F.mse_loss(self.net[1:](hidden), y) + 0 * self.extra(hidden)


class EmptyExpert(Extra):
    def extra(self, hidden):
        return F.relu(self.net[2](hidden[:0])).sum() + F.tanh(hidden[:0]).sum() + F.softmax(hidden[:0], -1).sum()


class EmptyAttention(Extra):
    def extra(self, hidden):
        none = hidden[:0][:, None]
        return F.scaled_dot_product_attention(none, none, none).sum()


class Nested(Extra):
    def extra(self, hidden):
        nested = torch.nested.as_nested_tensor([hidden[:2], hidden[2:5]], layout=torch.jagged)
        return torch.relu(nested).values().sum()


class Sparse(Extra):
    def extra(self, hidden):
        return torch.sparse.sum(torch.relu(hidden.to_sparse()))


class Tagged(torch.Tensor):
    pass


class Subclass(Extra):
    def extra(self, hidden):
        return F.relu(hidden.as_subclass(Tagged)).sum().as_subclass(torch.Tensor)


class PerSample(Extra):
    """Derivatives of the network by its input, sample by sample, as in physics."""

    def extra(self, hidden):
        weights = dict(self.net[1:].named_parameters())
        return vmap(jacrev(lambda row: functional_call(self.net[1:], weights, row)))(hidden).sum()


class Penalty(Regression):
    """A gradient inside the loss, as in WGAN-GP."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        x = x.clone().requires_grad_()
        out = self.net(x)
        (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
        return F.mse_loss(out, y) + 0.1 * slope.square().mean()

    def validation_step(self, batch, batch_idx):
        pass


class Dictionary(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 1)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return {"prediction": self.linear(x) + self.bias}


class PutsOutADictionary(Regression):
    def __init__(self):
        super().__init__(Dictionary)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.mse_loss(self.net(x)["prediction"], y)

    def validation_step(self, batch, batch_idx):
        pass


class Scripted(Regression):
    def __init__(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            super().__init__(lambda: nn.Sequential(nn.Linear(4, 8), torch.jit.script(nn.Linear(8, 8)), nn.Linear(8, 1)))


class Copying(Regression):
    """Copies a layer, the network and itself, and pickles them, in the midst of its step: teachers, snapshots."""

    def __init__(self):
        super().__init__()
        self.copies = []

    def training_step(self, batch, batch_idx):
        x, y = batch
        hidden = self.net[:2](x)
        self.copies = [copy.deepcopy(self.net[0]), copy.deepcopy(self.net)]
        copy.deepcopy(self)
        torch.save(self.net, io.BytesIO())
        torch.save(self, io.BytesIO())
        assert not any(each._forward_hooks or each._forward_pre_hooks for net in self.copies for each in net.modules())
        return F.mse_loss(self.net[2:](hidden), y)


UNUSUAL = [
    WithLossModule, EmptyExpert, EmptyAttention, Nested, Sparse, Subclass, PerSample, Penalty, PutsOutADictionary,
    Scripted, Copying,
]  # fmt: skip


@pytest.mark.parametrize("module_type", UNUSUAL)
def test_it_watches_to_the_end_and_changes_nothing(module_type):
    def weights(*callbacks):
        torch.manual_seed(0)
        module = module_type()
        fit(module, *callbacks)
        return torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The PyTorch API of nested tensors")
        warnings.filterwarnings("ignore", ".*torch.jit")
        plain = weights()
        detector = PathologyDetector(every_n_steps=1)
        assert torch.equal(weights(detector), plain)
    assert detector.failure is None
    assert len(detector.history.observations) == 6
    assert not [each for each in detector.findings if each.severity >= "warning"]


class Classes(Regression):
    def __init__(self):
        super().__init__(lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.net(x), (y[:, 0] > 0).long())

    def validation_step(self, batch, batch_idx):
        pass


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
@pytest.mark.parametrize("module_type", [Classes, Regression])
def test_in_any_precision_the_skill_is_known(precision, module_type):
    detector = PathologyDetector(every_n_steps=1)
    run = trainer(detector, precision=precision)
    run.fit(module_type(), loader(batches(6, size=32)), loader(batches(2)))
    assert detector.failure is None
    assert [each.skill is not None for each in detector.history.observations] == [True] * 6


def test_gradients_inside_the_loss_are_not_those_of_the_loss():
    def backward(module):
        detector = PathologyDetector(every_n_steps=1)
        fit(module, detector)
        return [layer.backward for layer in detector.history.observations[0].layers]

    class Plain(Penalty):
        def training_step(self, batch, batch_idx):
            return Regression.training_step(self, batch, batch_idx)

    class Looked(Penalty):
        def training_step(self, batch, batch_idx):
            x, y = batch
            x = x.clone().requires_grad_()
            out = self.net(x)
            (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
            return F.mse_loss(out, y) + 0 * slope.detach().sum()

    torch.manual_seed(0)
    plain = backward(Plain())
    torch.manual_seed(0)
    assert backward(Looked()) == pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize("wrapped", [False, True])
def test_layers_under_activation_checkpointing_have_their_own_names(wrapped):
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    class Checkpointed(Regression):
        def __init__(self):
            super().__init__()
            if wrapped:
                self.net[2] = checkpoint_wrapper(self.net[2])

        def training_step(self, batch, batch_idx):
            x, y = batch
            if wrapped:
                return super().training_step(batch, batch_idx)
            return F.mse_loss(self.net[4](checkpoint(self.net[:4], x, use_reentrant=False)), y)

    detector = PathologyDetector(every_n_steps=1)
    fit(Checkpointed(), detector)
    assert detector.failure is None
    for observation in detector.history.observations:
        assert [layer.name for layer in observation.layers] == ["net.0", "net.2", "net.4"]
        assert all(layer.backward and layer.gradient and layer.ran for layer in observation.layers)


def test_what_reentrant_checkpointing_hides_is_said_once():
    class Reentrant(Regression):
        def training_step(self, batch, batch_idx):
            x, y = batch
            return F.mse_loss(self.net[4](checkpoint(self.net[:4], x.requires_grad_(), use_reentrant=True)), y)

    detector = PathologyDetector(every_n_steps=1, on_warning="log")
    with pytest.warns(UserWarning, match=r"activations of net\.0 and others are not seen.*use_reentrant=False") as told:
        fit(Reentrant(), detector)
    assert len([each for each in told if "PathologyDetector" in str(each.message)]) == 1
    assert detector.failure is None
