from dataclasses import replace

import pytest
from helpers.histories import falling, history, layers

from lightning_gradtools.diagnosis import Finding, Kind, Remedy, Severity
from lightning_gradtools.diagnosis.observation import ActivationObservation, History, NonfiniteEvent, Observation
from lightning_gradtools.diagnosis.progress import progress
from lightning_gradtools.diagnosis.rule import Need, Rule, RuleContext
from lightning_gradtools.diagnosis.rules import RULES, diagnose

FINDING = Finding(kind=Kind.DEAD_RELU, layer="a", step=0, severity=Severity.INFO, evidence=(), message="")
ADVICE = Remedy("Mend it.")


def rule(**settings):
    always = {"kind": Kind.DEAD_RELU, "order": 1, "needs": frozenset(), "find": lambda _: iter([FINDING])}
    return Rule(**{**always, "remedies": lambda _: (ADVICE,), **settings})


def observed(step=0, **settings):
    made = History()
    made.add(Observation(step, layers([1.0]), learning_rate=0.1, **settings))
    return made


def broken():
    made = History()
    made.nonfinite.append(NonfiniteEvent(0, 0, 0, "loss", ""))
    return made


RELU = (ActivationObservation("a", "relu", 8),)


@pytest.mark.parametrize(
    ("need", "lacking", "having"),
    [
        (Need.OBSERVATIONS, History(), observed(7)),
        (Need.FIRST_STEP, observed(1), observed(0)),
        (Need.ACTIVATIONS, observed(), observed(activations=RELU)),
        (Need.PROGRESS, history(steps=9), history(steps=10)),
        (Need.NONFINITE, history(), broken()),
    ],
    ids=[need.name for need in Need],
)
def test_a_rule_is_asked_once_its_needs_are_met(need, lacking, having):
    def find(context):
        asked.append(context)
        return iter([FINDING])

    asked = []
    needing = rule(needs=frozenset({need}), find=find)
    assert diagnose(lacking, [needing]) == []
    assert not asked
    assert len(diagnose(having, [needing])) == 1


def test_no_rule_minds_an_empty_history():
    assert diagnose(History()) == []


def test_progress_is_computed_once_and_handed_to_every_rule(monkeypatch):
    calls, seen = [], []

    def counted(made):
        calls.append(made)
        return progress(made)

    def find(context):
        seen.append(context.progress)
        return iter(())

    monkeypatch.setattr("lightning_gradtools.diagnosis.rule.progress", counted)
    made = history(loss=falling)
    diagnose(made, [rule(find=find)] * 3)
    diagnose(made)
    assert len(calls) == 2
    assert seen == [progress(made)] * 3


def test_a_finding_keeps_its_own_remedies_and_gets_those_of_its_rule_otherwise():
    own = replace(FINDING, layer="b", remedy=(Remedy("Look."),))
    first, second = rule(find=lambda _: iter([FINDING, own])).findings(RuleContext.of(History()))
    assert first.remedy == (ADVICE,)
    assert second == own


def test_after_what_an_exclusive_rule_finds_no_other_is_asked():
    alone, other = rule(is_exclusive=True), rule(find=lambda _: iter([replace(FINDING, layer="b")]))
    assert [each.layer for each in diagnose(History(), [alone, other])] == ["a"]
    silent = rule(is_exclusive=True, find=lambda _: iter(()))
    assert [each.layer for each in diagnose(History(), [silent, other])] == ["b"]
    assert [each.layer for each in diagnose(History(), [other, silent])] == ["b"]


def test_rules_are_asked_for_causes_before_consequences():
    known = [
        "poor_initialization",
        "nonfinite",
        "no_gradient",
        "dead_relu",
        "saturated_activation",
        "vanishing_gradient",
        "exploding_gradient",
        "oscillating_loss",
        "stalled_training",
    ]
    # Of one kind with several rules the first counts.
    assert list(dict.fromkeys(str(each.kind) for each in RULES if str(each.kind) in known)) == known
    assert len({each.order for each in RULES}) == len(RULES)
