"""What is wrong with a training loop, in real runs: with one mistake, without it, and where it only looks like one."""

import pytest
import torch
from helpers import loop_cases as cases
from helpers.launcher import launch
from helpers.loop_cases import HEALTHY, SICK, look
from helpers.pathology_cases import Classification, serious
from helpers.runs import trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging

from lightning_gradtools.callbacks import PathologyDetector

# Lightning itself has a word on two of them.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Found .* in eval mode"),
    pytest.mark.filterwarnings("ignore:A `OneCycleLR` scheduler is using"),
]
KINDS = {key[0] for key, *_ in SICK.values()} | {"replicas_out_of_step"}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("name", SICK)
def test_a_mistake_is_named_and_its_repair_is_silent(name):
    expected, sick, repaired, settings = SICK[name]
    detector = look(sick(), **settings)
    assert expected in serious(detector)
    (finding,) = [each for each in detector.findings if (str(each.kind), each.layer) == expected]
    assert finding.step <= 4 or name in ("by hand, every four", "updates lost in bfloat16")
    assert finding.resolved_at is None
    assert {kind for kind, _ in serious(detector)} & KINDS == {expected[0]}
    torch.manual_seed(0)
    assert not {kind for kind, _ in serious(look(repaired(), **settings))} & KINDS


@pytest.mark.parametrize("name", HEALTHY)
def test_what_looks_like_a_mistake_and_is_none(name):
    make, settings = HEALTHY[name]
    detector = look(make(), **settings)
    assert not {kind for kind, _ in serious(detector)} & KINDS
    assert len(detector.history.observations) > 3


def test_weight_averaging_is_none():
    detector = PathologyDetector(table=False, on_warning="log", on_critical="log")
    averaging = StochasticWeightAveraging(1e-2, swa_epoch_start=1)
    trainer(detector, averaging, max_epochs=3, enable_progress_bar=False).fit(
        Classification(cases.regularised()), cases.digits()
    )
    assert not serious(detector)
    assert detector.failure is None


def test_ranks_that_part():
    first, second = launch(cases.two_processes)
    for found in (first, second):
        assert ("replicas_out_of_step", "net.2", "critical") in keys(found["noisy"])
        assert ("replicas_out_of_step", "", "critical") in keys(found["never averaged"])
        assert not found["healthy"]
    apart = [[each for each in found["noisy"] if each["kind"] == "replicas_out_of_step"] for found in (first, second)]
    assert apart[0] == apart[1]


def keys(findings):
    return {(each["kind"], each["layer"], each["severity"]) for each in findings}


def test_the_share_of_lost_updates_is_that_of_a_count():
    shares = []

    class Counted(Classification):
        def optimizer_step(self, *args, **kwargs):
            before = [each.detach().clone() for each in self.parameters()]
            super().optimizer_step(*args, **kwargs)
            after, gradients = list(self.parameters()), [each.grad != 0 for each in self.parameters()]
            same = sum(((new == old) & g).sum() for new, old, g in zip(after, before, gradients, strict=True))
            shares.append((same / sum(each.sum() for each in gradients)).item())

    module = Counted(cases.net(), lr=1e-3, optimizer=torch.optim.AdamW)
    detector = look(module, precision="bf16-true", steps=9)
    for each in detector.history.observations:
        # A weight whose gradient is zero may move by momentum; then fewer are lost than the detector can be sure of.
        assert shares[each.step] - 0.05 < each.loop.lost <= shares[each.step] + 1e-6
        assert each.loop.precision == "bfloat16"
    assert shares[0] > 0.01


def test_a_resumed_run_goes_on_knowing_of_its_loop(tmp_path):
    def run(epochs, **settings):
        detector = PathologyDetector(table=False, on_warning="log", on_critical="log")
        made = trainer(detector, max_epochs=epochs, enable_progress_bar=False)
        made.fit(cases.Evaluating(cases.regularised(), "net"), cases.digits(), **settings)
        return detector, made

    first, half = run(1)
    half.save_checkpoint(tmp_path / "half.ckpt")
    second, _ = run(2, ckpt_path=tmp_path / "half.ckpt", weights_only=False)
    known = len(first.history.observations)
    assert second.history.observations[:known] == first.history.observations
    assert [(str(each.kind), each.step) for each in second.findings] == [("evaluation_mode", 2)]
    assert second.history.observations[-1].loop.evaluating == ("net",)


def test_weights_are_the_same_bit_by_bit_while_gradients_are_followed():
    def weights(*callbacks):
        torch.manual_seed(1)
        module = cases.InTurns(toggles=False, clears_critic=False)
        trainer(*callbacks, max_epochs=1, enable_progress_bar=False).fit(module, cases.digits())
        return torch.cat([each.detach().reshape(-1) for each in module.parameters()])

    detector = PathologyDetector(2, table=False, on_warning="log", on_critical="log")
    assert torch.equal(weights(), weights(detector))
    assert detector.failure is None
    assert ("gradients_not_cleared", "critic") in serious(detector)
