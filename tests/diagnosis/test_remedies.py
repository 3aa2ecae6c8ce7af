"""Remedies: what they say, that their code is Python, and that none of them knows a command line."""

import ast
import re
from pathlib import Path

import pytest
import torch
from helpers.histories import decaying, found, history, layers, noise

from lightning_gradtools import callbacks, diagnosis
from lightning_gradtools.diagnosis import Change, remedies
from lightning_gradtools.diagnosis.observation import ActivationObservation, History, NonfiniteEvent
from lightning_gradtools.diagnosis.rule import RuleContext

SOURCES = sorted(Path(diagnosis.__file__).parent.rglob("*.py"))
OVERRIDES = re.compile(r"^(-m )?[+~-]{0,2}[\w./@]+=\S*( [+~-]{0,2}[\w./@]+=\S*)*$")


def units(step):
    return (
        ActivationObservation("a", "relu", 100, dead=99),
        ActivationObservation("b", "tanh", 100, saturated=99, samples=999),
    )


def poisoned(direction):
    made = history()
    made.nonfinite.append(NonfiniteEvent(99, 1, 0, direction, "a"))
    return made


def planned(steps, **settings):
    made = history(every=5, **settings)
    made.planned_steps = steps
    return made


def offered(rate=lambda step: 0.1):
    """Every remedy of every rule, from runs that have each pathology."""
    runs = [
        history(rate=rate, seen=decaying(0.1), activations=units),
        history(rate=rate, loss=lambda step: 2.3 * 1.1**step, skill=lambda step: 1 - 1.1**step),
        history(rate=rate, loss=lambda step: 2.3 + (-1) ** step, skill=lambda step: 0.3),
        history(rate=rate, seen=lambda step: (*layers([None], gradient=0.0), *layers([1.0] * 3)[1:])),
        history(rate=rate, seen=lambda step: (*layers([None], ran=False, gradient=None), *layers([1.0] * 3)[1:])),
        history(rate=rate, every=1, seen=lambda step: layers([1.0] * 3, identical=True)),
        planned(100, rate=rate, seen=lambda step: layers([1.0] * 3, update=1e-9)),
        planned(1000, rate=lambda step: 0.1 * 0.3**step, skill=lambda step: 0.2),
        planned(120, rate=rate, loss=lambda step: 2.3 - 0.0016 * step, skill=lambda step: 0.0007 * step),
        *map(poisoned, ("input data", "optimizer update", "forward")),
    ]
    return {each for made in runs for finding in found(made).values() for each in finding.remedy}


def test_every_change_is_offered():
    assert {each.change for each in offered()} == {*Change, None}


def test_every_code_is_python_and_every_change_that_has_a_line_gives_it():
    for each in offered():
        ast.parse(each.code)
        assert each.code or each.change in (None, Change.LESS_DEPTH), each.sentence


def test_the_callbacks_that_code_names_take_its_arguments():
    named = {each.code for each in offered() if re.match(r"(GradientClipping|WarmupCosineSchedule)\(", each.code)}
    assert len(named) >= 4
    for code in named:
        assert eval(code, {**{name: getattr(callbacks, name) for name in callbacks.__all__}, "max_norm": 1.0})


@pytest.mark.parametrize(
    ("rate", "times", "lowered", "raised", "text"),
    [
        (0.1, 10, 0.01, 1.0, "tenfold, to 0.01"),
        (0.003, 3, 0.001, 0.009, "threefold, to 0.001"),
        (3e-4, 100, 3e-6, 0.03, "a hundredfold, to 3e-06"),
    ],
)
def test_a_learning_rate_is_told_from_the_one_observed(rate, times, lowered, raised, text):
    context = RuleContext.of(history(rate=lambda step: rate))
    lower, higher = remedies.lower_learning_rate(context, times), remedies.raise_learning_rate(context, times)
    assert lower.sentence == f"Lower the learning rate {text}."
    assert (lower.change, lower.value) == (Change.LOWER_LEARNING_RATE, lowered)
    assert (higher.change, higher.value) == (Change.RAISE_LEARNING_RATE, raised)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=rate)
    exec(lower.code, {"optimizer": optimizer})
    assert optimizer.param_groups[0]["lr"] == lowered


def test_the_latest_rate_counts():
    context = RuleContext.of(history(rate=lambda step: 0.1 if step < 50 else 0.02))
    assert remedies.lower_learning_rate(context).value == 0.002
    assert "from 0.002 to 0.2" in remedies.search_learning_rate(context).sentence


def test_a_rate_of_zero_tells_no_other_one():
    context = RuleContext.of(history(rate=lambda step: 0.0))
    lower = remedies.lower_learning_rate(context, why=", and wait")
    assert (lower.sentence, lower.value, lower.code) == ("Lower the learning rate tenfold, and wait.", None, "")
    assert remedies.search_learning_rate(context).value is None


@pytest.mark.parametrize(
    ("remedy", "option"), [(remedies.lower_weight_decay(), "weight_decay"), (remedies.raise_eps(), "eps")]
)
def test_options_are_set_in_every_group(remedy, option):
    groups = [{"params": [torch.zeros(1)]}, {"params": [torch.ones(1)]}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.1)
    exec(remedy.code, {"optimizer": optimizer})
    assert [group[option] for group in optimizer.param_groups] == [remedy.value] * 2


def test_diagnosis_fills_no_overrides():
    assert not any(each.overrides for each in offered())


@pytest.mark.parametrize(
    "text",
    [
        "optimizer.lr=0.001",
        "-m optimizer.lr=0.1,0.01",
        "callbacks/gradtools=[a]",
        "+optimizer.eps=1e-8",
        "a=",
        "a.b=1 c=2",
    ],
)
def test_the_search_for_overrides_finds_one(text):
    assert OVERRIDES.match(text)
    assert not OVERRIDES.match(f"set {text}")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_string_is_a_hydra_override(path):
    tree = ast.parse(path.read_text())
    strings = [each.value for each in ast.walk(tree) if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    assert not [text for text in strings if OVERRIDES.match(text.strip())]


def test_a_history_without_findings_offers_nothing():
    assert not found(History())
    assert not found(history(loss=lambda step: 1e-6 * (2 + noise(step)), skill=lambda step: 0.999))
