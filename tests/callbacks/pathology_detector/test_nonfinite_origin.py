"""Each direction a NaN can come from, planted at a known step and module."""

import math
import subprocess
import sys

import pytest
import torch
from helpers.pathology_cases import Classification, digits, stack, watch
from helpers.runs import trainer
from torch import nn

from lightning_gradtools.callbacks import PathologyDetector
from lightning_gradtools.diagnosis import Kind

STEP = 7


class Planted(nn.Module):
    """Passes its input on; at the given call makes it, or its gradient, NaN."""

    def __init__(self, forward=False, backward=False):
        super().__init__()
        self.calls, self.wrong = 0, (forward, backward)

    def forward(self, x):
        self.calls += self.training
        if self.training and self.calls == STEP + 1:
            forward, backward = self.wrong
            if forward:
                return x * math.nan
            if backward:
                zero = (x - x.detach()).sum()
                return x + 0 * torch.where(zero == 0, zero.abs().sqrt(), zero)
        return x

    def __deepcopy__(self, memo):  # a copy is at the same call
        twin = Planted(*self.wrong)
        twin.calls = self.calls - 1
        return twin


class AtStep(Classification):
    def __init__(self, net, plant):
        super().__init__(net)
        self.plant = plant

    def training_step(self, batch, batch_idx):
        x, y = batch
        if self.global_step == STEP and self.plant == "input data":
            x = x.clone()
        loss = super().training_step((x, y), batch_idx)
        return loss - torch.log(loss * 0) if self.global_step == STEP and self.plant == "loss" else loss


def the_finding(module, **settings):
    detector = watch(module, steps=12, **settings)
    return next(each for each in detector.findings if each.kind == Kind.NONFINITE)


def net(planted):
    return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), planted, nn.ReLU(), nn.Linear(16, 10))


def test_in_the_forward_pass():
    finding = the_finding(Classification(net(Planted(forward=True))))
    assert (finding.layer, finding.step) == ("net.3", STEP)
    assert "forward" in finding.message


def test_in_the_backward_pass_of_a_finite_loss():
    finding = the_finding(Classification(net(Planted(backward=True))))
    assert (finding.layer, finding.step) == ("net.3", STEP)
    assert "backward" in finding.message


def test_in_the_loss():
    finding = the_finding(AtStep(stack(nn.ReLU, 2), "loss"))
    assert (finding.layer, finding.step) == ("", STEP)
    assert "in the loss of batch 7" in finding.message


def test_in_the_data():
    data = digits()
    data.dataset.tensors[0][STEP * 64 + 5, 3] = math.nan
    finding = the_finding(Classification(stack(nn.ReLU, 2)), data=data)
    assert finding.step == STEP
    assert "the input data of batch 7" in finding.message
    assert "[5]" in finding.message


def test_in_the_optimizers_update():
    class Overflow(torch.optim.Adam):
        steps = 0

        def step(self, closure=None):
            loss = super().step(closure)
            self.steps += 1
            if self.steps == STEP:
                self.param_groups[0]["params"][2].data.fill_(math.inf)
            return loss

    module = Classification(stack(nn.ReLU, 2), lr=1e-3, optimizer=Overflow)
    finding = the_finding(module)
    assert (finding.layer, finding.step) == ("net.2", STEP)
    assert "optimizer update" in finding.message


def test_a_stretch_is_one_finding_and_the_state_of_the_run_is_untouched():
    class Blip(Classification):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return loss * math.nan if 5 <= self.global_step < 8 and self.training else loss

        def on_before_optimizer_step(self, optimizer):
            for parameter in self.parameters():
                parameter.grad.nan_to_num_(0.0)

    def weights(*callbacks):
        torch.manual_seed(0)
        module = Blip(nn.Sequential(*stack(nn.ReLU, 2), nn.Dropout(0.1)))
        trainer(*callbacks, max_epochs=1).fit(module, digits())
        return torch.cat([p.detach().reshape(-1) for p in module.parameters()])

    detector = PathologyDetector(table=False, on_critical="log", on_warning="log")
    assert torch.equal(weights(), weights(detector))
    assert detector.failure is None
    assert [event.step for event in detector.history.nonfinite] == [5]


def test_a_dump_is_replayed_by_one_command(tmp_path):
    data = digits()
    data.dataset.tensors[0][STEP * 64 + 5, 3] = math.nan
    detector = PathologyDetector(dump_dir=str(tmp_path), table=False, on_critical="log", on_warning="log")
    trainer(detector, max_epochs=1).fit(Classification(stack(nn.ReLU, 2)), data)
    (path,) = tmp_path.glob("*.pt")
    assert str(path) in detector.findings[0].message
    command = [sys.executable, "-m", "lightning_gradtools.callbacks.pathology_detector.replay", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**_environment()})
    assert "direction  input data" in done.stdout, done.stderr
    assert "samples [5]" in done.stdout


def _environment():
    import os
    from pathlib import Path

    from helpers import pathology_cases

    paths = [str(Path(pathology_cases.__file__).parent), str(Path(__file__).parents[2])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


@pytest.mark.parametrize("scale", [2.0**30])
def test_overflow_while_a_loss_scale_is_searched_is_not_a_finding(scale):
    from lightning.pytorch.plugins.precision import MixedPrecision

    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    module = Classification(stack(nn.ReLU, 2))
    detector = watch(module, steps=20, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    assert scaler.get_scale() < scale
    assert not detector.findings
