import math

import pytest
from helpers.histories import falling, found, history, layers, loops

from lightning_gradtools.diagnosis.loop_observation import LoopObservation


def lost(share):
    return LoopObservation(lost=share, precision="bfloat16")


@pytest.mark.parametrize(("share", "severity"), [(0.96, "warning"), (0.7, "info"), (0.4, None)])
def test_a_share_of_what_is_rounded_away(share, severity):
    finding = found(loops([lost(share)] * 11)).get(("lost_updates", ""))
    assert (finding and str(finding.severity)) == severity
    if finding:
        assert finding.evidence[0].value == share
        assert f"{share:.0%}" in finding.message
        assert "bfloat16" in finding.message
        assert finding.remedy[0].code == "Trainer(precision='bf16-mixed')"


def test_a_network_that_has_learned_may_lose_them():
    assert found(loops([lost(0.96)] * 20, loss=falling))["lost_updates", ""].severity == "info"


@pytest.mark.parametrize(
    "rate", [lambda step: 0.1 * (1 - step / 100) ** 2, lambda step: 1e-3 * (step + 1)], ids=["down", "up"]
)
def test_a_rate_on_its_way_is_not_judged(rate):
    assert ("lost_updates", "") not in found(loops([lost(0.96)] * 10, rate=rate))


def test_no_weight_that_ever_changed():
    made = history(seen=lambda step: layers([1.0] * 5, update=0.0))
    finding = found(made)["lost_updates", ""]
    assert finding.severity == "critical"
    assert "optimizer_step" in finding.remedy[0].sentence


@pytest.mark.parametrize(
    "settings",
    [{"update": 1e-30}, {"gradient": 0.0, "update": 0.0}, {"gradient": math.inf, "update": 0.0}],
    ids=["a change", "no gradient", "steps that a loss scaler skips"],
)
def test_otherwise_they_have_not_been_lost(settings):
    assert ("lost_updates", "") not in found(history(seen=lambda step: layers([1.0] * 5, **settings)))
    later = history(seen=lambda step: layers([1.0] * 5, update=1e-3 if step == 0 else 0.0))
    assert ("lost_updates", "") not in found(later)
