import pytest
from helpers.histories import history, layers

from lightning_gradtools.diagnosis.rule import RuleContext
from lightning_gradtools.diagnosis.rules.learning_rate_zero import RULE


def found(made):
    return RULE.findings(RuleContext.of(made))


def still(step):
    return layers([1.0] * 5, update=0.0)


def test_a_rate_of_zero_that_nothing_raises():
    (finding,) = found(history(rate=lambda step: 0.0, seen=still))
    assert (str(finding.kind), finding.severity) == ("learning_rate_too_low", "critical")
    assert finding.remedy[0].code


@pytest.mark.parametrize(
    "settings",
    [
        {"rate": lambda step: 1e-12},
        {"rate": lambda step: 0.0 if step else 0.1},
        {"seen": layers},
        {"steps": 30},
    ],
    ids=["tiny", "faded", "an optimizer that takes no rate", "three samples"],
)
def test_silence(settings):
    settings = {"rate": lambda step: 0.0, "seen": still, **settings}
    if settings["seen"] is layers:
        settings["seen"] = lambda step: layers([1.0] * 5)
    assert not found(history(**settings))


def test_a_schedule_may_raise_it():
    made = history(rate=lambda step: 0.0, seen=still)
    made.scheduled = True
    assert not found(made)
