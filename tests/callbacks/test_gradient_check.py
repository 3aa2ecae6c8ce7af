import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.callbacks.gradient_check import GradientCheck, GradientCheckError


class WrongTanh(torch.autograd.Function):
    """Its gradient is 1 - |y| where it should be 1 - y^2."""

    @staticmethod
    def forward(ctx, x):
        y = x.tanh()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, grad):
        (y,) = ctx.saved_tensors
        return grad * (1 - y.abs())


class Tanh(nn.Module):
    def forward(self, x):
        return WrongTanh.apply(x)


class Centre(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


class Block(nn.Module):
    def __init__(self, channels, activation):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), activation)
        self.norm, self.drop = nn.BatchNorm2d(channels), nn.Dropout(0.2)

    def forward(self, x):
        return x + self.drop(self.norm(self.inner(x)))


class DigitsCNN(LightningModule):
    def __init__(self, activation=None):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(inplace=True),
            Block(16, activation or nn.ReLU()),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 16, 10),
        )
        self.accuracy = MulticlassAccuracy(10)

    def training_step(self, batch, batch_idx):
        images, labels = batch
        logits = self.net(images)
        self.accuracy(logits, labels)
        self.log("accuracy", self.accuracy)
        return nn.functional.cross_entropy(logits, labels)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)

    def train_dataloader(self):
        images, labels = load_digits(return_X_y=True)
        images = torch.tensor(images[:256] / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
        return DataLoader(TensorDataset(images, torch.tensor(labels[:256])), batch_size=32, shuffle=True)


@pytest.fixture
def fit(tmp_path):
    def fit(module, *callbacks, **arguments):
        trainer = Trainer(
            **{"max_steps": 4, **arguments},
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=1,
            default_root_dir=tmp_path,
            callbacks=list(callbacks),
        )
        torch.manual_seed(1)
        trainer.fit(module)
        return module.state_dict(), torch.get_rng_state()

    return fit


def test_a_right_network_passes_and_trains_as_without_the_check(fit, caplog):
    check = GradientCheck()
    torch.manual_seed(0)
    without, state_without = fit(DigitsCNN())
    torch.manual_seed(0)
    with caplog.at_level("INFO"):
        with_it, state_with = fit(DigitsCNN(), check)
    assert check.result.passed
    assert check.result.batch_norms == ("net.2.norm",)
    assert "GradientCheck: the gradients of DigitsCNN are right" in caplog.text
    assert "batch statistics are shared, as meant in training, in net.2.norm" in caplog.text
    assert all(torch.equal(with_it[name], value) for name, value in without.items())
    assert torch.equal(state_with, state_without)
    assert torch.get_default_dtype() == torch.float32


def test_a_wrong_backward_three_modules_deep_is_named_before_training(fit):
    net, check = DigitsCNN(Tanh()), GradientCheck()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(GradientCheckError, match=r"gradient of net\.2\.inner\.1 \(Tanh\) in DigitsCNN is wrong"):
        fit(net, check)
    assert [wrong.name for wrong in check.result.wrong] == ["net.2.inner.1"]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    with pytest.warns(UserWarning, match=r"net\.2\.inner\.1"):
        fit(net, GradientCheck(on_failure="warn"))
    fit(DigitsCNN(Tanh()), GradientCheck(exclude=["net.2.inner.1"]))


def test_samples_that_leak_into_one_another_are_told(fit):
    with pytest.raises(GradientCheckError, match=r"samples leak into one another in net\.2\.inner\.1\n"):
        fit(DigitsCNN(Centre()), GradientCheck())


def test_what_cannot_be_checked_is_said_and_training_goes_on(fit):
    class Manual(DigitsCNN):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            self.optimizers().step()

    class Noisy(DigitsCNN):
        def training_step(self, batch, batch_idx):
            self.calls = getattr(self, "calls", 0) + 1
            return super().training_step(batch, batch_idx) * self.calls

    for net, message in ((Manual(), "automatic_optimization=False"), (Noisy(), "not the same twice")):
        check = GradientCheck()
        with pytest.warns(UserWarning, match=rf"cannot check {type(net).__name__}: .*{message}"):
            fit(net, check)
        assert check.result is None


def test_an_unknown_module_cannot_be_excluded(fit):
    with pytest.raises(ArgumentError, match=r"^exclude='net\.2\.iner\.1': .*did you mean 'net\.2\.inner\.1'"):
        fit(DigitsCNN(), GradientCheck(exclude=["net.2.iner.1"]))


@pytest.mark.parametrize("arguments", [{"tolerance": 0.0}, {"directions": 0}, {"on_failure": "stop"}])
def test_bad_arguments_are_named(arguments):
    (name,) = arguments
    with pytest.raises(ArgumentError, match=rf"^{name}="):
        GradientCheck(**arguments)
