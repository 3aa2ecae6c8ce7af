"""Small runs with the faults of large models: sick ones, healthy twins, and the same with the first remedies."""

import pytest
import torch
from helpers import large_model_cases as cases
from helpers.large_model_cases import Drifting, Mixture, Recall, digits_with_outliers, sequences
from helpers.launcher import launch
from helpers.pathology_cases import Classification, digits, serious, stack, watch
from helpers.runs import trainer
from torch import nn
from torch.utils.data import DataLoader

from lightning_gradtools import GradientClipping, PathologyDetector


def recalled(steps=61, **settings):
    torch.manual_seed(0)
    return watch(Recall(**settings), data=sequences(), steps=steps)


def mixed(**settings):
    torch.manual_seed(0)
    return watch(Mixture(**settings), data=digits())


def final_loss(detector):
    return detector.history.losses[-1][1]


def kinds(detector):
    return {kind for kind, _ in serious(detector)}


def test_attention_that_collapses_at_a_high_rate_is_named_with_its_heads():
    detector = recalled(lr=6e-2)
    found = [each for each in detector.findings if each.kind == "attention_collapse"]
    assert (found[0].layer, str(found[0].severity)) == ("net.blocks.0.attention", "warning")
    assert "head" in found[0].message
    logit, entropy, _ = found[0].evidence
    assert logit.value > 15
    assert entropy.value < 0.6
    assert final_loss(detector) > 2.5
    assert "QK-norm" in found[0].remedy[0].sentence


@pytest.mark.parametrize(
    "cured", [{"qk_norm": True}, {"warm_up": 60}, {"lr": 3e-3}], ids=["QK-norm", "warm-up", "lower rate"]
)
def test_each_remedy_of_a_collapse_has_the_network_learn(cured):
    detector = recalled(steps=101, **{"lr": 6e-2, **cured})
    assert final_loss(detector) < 0.5
    assert serious(detector) == set()


def test_experts_that_a_router_does_not_choose_are_one_finding():
    detector = mixed(favoured=5.0)
    assert kinds(detector) == {"expert_imbalance"}
    (found,) = [each for each in detector.findings if each.kind == "expert_imbalance"]
    assert (found.layer, str(found.severity)) == ("net.mixture", "warning")
    assert found.evidence[0].value == pytest.approx(7 / 8)


@pytest.mark.parametrize(
    "settings",
    [
        {"favoured": 5.0, "balance": 0.1},
        {"balance": 0.03},
        {"balance": 0.03, "top": 2},
        {"balance": 0.03, "shared": True},
    ],
    ids=["cured by a balancing loss", "top-1", "top-2", "shared expert"],
)
def test_experts_that_share_the_load_are_healthy(settings):
    assert serious(mixed(**settings)) == set()


def test_two_processes_find_what_one_finds():
    alone = cases.one_process()
    first, second = launch(cases.two_processes)
    assert first == second
    assert [each["layer"] for each in first["imbalance"]] == [each["layer"] for each in alone["imbalance"]]
    assert alone["imbalance"]
    for name, tolerance in (("loads", 0.05), ("entropies", 0.01), ("log_partitions", 0.01)):
        assert torch.tensor(first[name]).sub(torch.tensor(alone[name])).abs().max() < tolerance, name


def drifted(**settings):
    torch.manual_seed(0)
    return watch(Drifting(**settings), data=digits(), steps=121)


def test_logits_that_drift_away_together_are_named():
    detector = drifted()
    assert kinds(detector) == {"logit_drift"}
    (found,) = [each for each in detector.findings if each.kind == "logit_drift"]
    assert found.evidence[0].value > 64
    assert "z-loss" in found.remedy[0].sentence


@pytest.mark.parametrize(
    "settings", [{"z_loss": 1e-2}, {"weight_decay": 10.0}, {"pay": 0.0}], ids=["z-loss", "weight decay", "healthy"]
)
def test_logits_that_are_held_in_place_do_not_drift(settings):
    assert serious(drifted(**settings)) == set()


def spiked(outliers, *callbacks):
    torch.manual_seed(0)
    data = DataLoader(digits_with_outliers(outliers), batch_size=None)
    return watch(Classification(stack(nn.ReLU, 3), lr=0.05), *callbacks, data=data, steps=141)


def spike(detector):
    return [str(each.severity) for each in detector.findings if each.kind == "loss_spike"]


def test_spikes_that_undo_what_was_learned_are_a_warning_and_clipping_has_the_run_get_over_them():
    outliers = (90, 105, 120, 135)
    assert spike(spiked(outliers)) == ["warning"]
    clipped = spiked(outliers, GradientClipping(max_norm=1.0))
    assert spike(clipped) == ["info"]
    assert serious(clipped) == set()
    assert final_loss(clipped) < 0.6


def test_one_batch_unlike_the_others_is_worth_an_info():
    assert spike(spiked((90,), GradientClipping(max_norm=1.0))) == ["info"]
    assert spike(spiked(())) == []


@pytest.mark.parametrize(
    ("module", "data"),
    [(lambda: Recall(lr=3e-2), sequences), (lambda: Mixture(top=2), digits)],
    ids=["attention", "experts"],
)
def test_weights_are_the_same_bit_by_bit_without_it(module, data):
    def weights(*callbacks):
        torch.manual_seed(0)
        made = module()
        trainer(*callbacks, max_epochs=-1, max_steps=9).fit(made, data())
        return torch.cat([weight.detach().reshape(-1) for weight in made.parameters()])

    detector = PathologyDetector(1, table=False)
    assert torch.equal(weights(), weights(detector))
    assert detector.failure is None
    assert any(each.attention or each.routing for each in detector.history.observations)
