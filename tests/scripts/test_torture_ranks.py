"""The script that lets one rank fail: what it calls a fault, and one trial of each strategy."""

import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def torture():
    sys.path.insert(0, str(SCRIPTS))
    yield import_module("torture_ranks")
    sys.path.remove(str(SCRIPTS))


def test_what_is_a_fault(torture):
    trial = torture.Trial(case="logger", strategy="ddp", ranks=(0,))
    bare = torture.Ending(how="", seconds=1.0, steps=24, weights=(1.0, 2.0), told=[])
    longer = replace(bare, seconds=1.0 + torture.SLACK + 0.1)
    changed, ended = replace(bare, weights=(1.0, 2.5)), replace(bare, how="OSError")

    def complaints(found, case="logger"):
        return torture.complaints(replace(trial, case=case), [bare, bare], [bare, found])

    assert complaints(bare) == []
    assert complaints(None) == ["rank 1 hangs"]
    assert complaints(longer) == ["rank 1 took 11.1 s, without us 1.0"]
    assert complaints(ended) == ["rank 1 ended with OSError, without us with nothing"]
    assert complaints(changed) == ["rank 1 has other weights"]
    assert complaints(changed, "NaN") == []  # which has changed training itself
    assert complaints(ended, "interrupt") == []  # of which a rank hears by a signal, or from the other that is gone


def test_trials_are_of_every_case_on_every_strategy(torture):
    found = torture.trials(0)
    cases = {"guarded call", "disk full", "logger", "memory", "NaN", "interrupt"}
    assert {(each.case, each.strategy) for each in found} == {
        (case, strategy) for case in cases for strategy in torture.STRATEGIES
    }
    assert found == torture.trials(0) != torture.trials(1)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["disk full", "logger", "memory"])
def test_training_goes_on_as_without_us(torture, monkeypatch, capfd, case):
    monkeypatch.setattr(sys, "argv", ["torture_ranks.py", "--only", case])
    assert torture.main() == 0, capfd.readouterr().err
