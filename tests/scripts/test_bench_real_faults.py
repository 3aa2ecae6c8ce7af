"""scripts/bench_real_faults.py: what a program is, which half it is in, how verdicts are counted."""

import sys
from collections import Counter
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import nn

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module", autouse=True)
def scripts_on_the_path():
    sys.path.insert(0, str(SCRIPTS))
    yield
    sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def known():
    return import_module("real_faults.programs").programs()


@pytest.fixture(scope="module")
def program():
    return import_module("real_faults.program")


def finding(kind, *, step=3, severity="warning", sentence="", change=None, **more):
    remedy = ({"sentence": sentence, "change": change},) if sentence or change else ()
    said = {
        "kind": kind,
        "layer": "",
        "step": step,
        "seen": step,
        "severity": severity,
        "message": "",
        "remedy": remedy,
    }
    return said | more


def test_two_of_one_name_are_refused(known, monkeypatch):
    package = import_module("real_faults.programs")
    numbers = import_module("real_faults.programs.numbers")
    monkeypatch.setattr(numbers, "PROGRAMS", [*numbers.PROGRAMS, numbers.PROGRAMS[0]])
    package.programs.cache_clear()
    with pytest.raises(ValueError, match=f"two programs are called '{numbers.PROGRAMS[0].name}'"):
        package.programs()


def test_twins_differ_and_labels_are_known(known, program):
    for each in known.values():
        assert each.faulty != each.repaired, each.name
        assert each.labels, each.name
        assert all(isinstance(label, program.Label) for label in each.labels), each.name


def test_what_is_of_deepfd_is_in_the_published_sheets_or_left_out_but_not_both(known, program):
    published = import_module("real_faults.verdicts").PUBLISHED
    left_out = import_module("real_faults.left_out").LEFT_OUT
    rebuilt = {each.post for each in known.values() if each.source is program.Source.DEEPFD}
    assert rebuilt | set(left_out) == set(published)
    assert not rebuilt & set(left_out)


def test_published_verdicts_add_up_to_what_the_sheets_say():
    verdicts = import_module("real_faults.verdicts")
    detected: Counter[str] = Counter()
    diagnosed: Counter[str] = Counter()
    for marks in verdicts.PUBLISHED.values():
        for tool, detection, diagnosis in zip(verdicts.TOOLS, *marks, strict=True):
            detected[tool] += detection == "1"
            diagnosed[tool] += diagnosis == "1"
    assert len(verdicts.PUBLISHED) == 52
    # DEFault's own sums are 48 and 33: in four rows its sheet has other programs than DeepFD's.
    assert [detected[tool] for tool in verdicts.TOOLS[:4]] == [50, 12, 36, 47]
    assert [diagnosed[tool] for tool in verdicts.TOOLS[:4]] == [14, 10, 7, 27]


def test_the_half_is_by_the_name_alone(known, program):
    assert {each.half for each in known.values()} == set(program.HALVES)
    assert [program.half_of(name) for name in ("a", "b", "c", "d", "e", "f")] == [
        # the first bytes of the names' SHA-256 are ca, 3e, 2e, 18, 3f and 25
        "report",
        "report",
        "report",
        "report",
        "tune",
        "tune",
    ]


@pytest.mark.parametrize(
    ("said", "labels"),
    [
        (finding("output_mismatch"), {"activation", "loss"}),
        (finding("unscaled_data"), {"preprocessing"}),
        (finding("stalled_training", sentence="Check the labels."), set()),
        (finding("stalled_training", sentence="Train for more epochs."), {"epochs"}),
        (finding("stalled_training", sentence="x", change="raise_learning_rate"), {"learning rate"}),
        (
            finding("oscillating_loss", sentence="Use Adam.", change="lower_learning_rate"),
            {"learning rate", "optimizer"},
        ),
        (finding("exploding_gradient", sentence="Clip the gradient.", change="clip_norm"), set()),
        (finding("dead_relu", sentence="x", change="warm_up"), {"activation"}),
        (finding("learning_rate_too_low"), {"learning rate"}),
        (finding("learning_rate_too_low", message="More epochs would do too."), {"learning rate", "epochs"}),
        (finding("no_gradient"), set()),
    ],
)
def test_a_finding_names_labels_by_its_kind_or_its_first_remedy(said, labels):
    named = import_module("real_faults.diagnosis").named
    assert {str(each) for each in named({**said})} == labels


def test_kinds_of_the_table_are_kinds_of_findings():
    from lightning_gradtools.diagnosis.finding import Kind

    diagnosis = import_module("real_faults.diagnosis")
    assert {*diagnosis.KINDS, *diagnosis.BY_REMEDY} <= {str(kind) for kind in Kind}


def test_only_a_finding_of_a_true_label_diagnoses(program):
    report = import_module("real_faults.report")
    labels = program.labels(program.Label.ACTIVATION)
    silent = {"findings": [], "score": 0.5}
    right = {"findings": [finding("exploding_gradient"), finding("dead_relu")], "score": 0.25}
    wrong = {"findings": [finding("unscaled_data")], "score": 0.25}
    said = [report.verdict("p", labels, faulty, silent) for faulty in (right, wrong, silent)]
    assert [each.detected for each in said] == [True, True, False]
    assert [each.diagnosed for each in said] == [True, False, False]
    assert not any(each.flagged for each in said)
    assert report.verdict("p", labels, silent, wrong).flagged
    assert said[0].gain == 0.25


def test_the_table_counts_programs_and_seeds(known):
    report = import_module("real_faults.report")
    first, second = known["so-48385830"], known["so-44164749"]
    silent = {"findings": [], "score": 1.0}
    dead = {"findings": [finding("dead_relu")], "score": 0.0}
    runs = [
        {"program": each.name, "seed": seed, "twin": twin, **what}
        for each, seed, faulty, repaired in (
            (first, 0, dead, silent),
            (first, 1, dead, dead),
            (second, 0, silent, silent),
            (second, 1, dead, silent),
        )
        for twin, what in (("faulty", faulty), ("repaired", repaired))
    ]
    found = report.verdicts([first, second], runs)
    table = report.comparison("Both", [first, second], found).splitlines()
    # of the sheets: UMLAUT, AutoTrainer, DeepLocalize, DeepFD and DEFault detect 2, 1, 2, 2 and 2 of these two
    assert table[4].split(" | ")[1:] == [*(["1.000 (2/2)", "0.500 (1/2)"]), *["1.000 (2/2)"] * 3, "0.750 (3/4) |"]
    assert table[5].endswith("| 0.750 (3/4) |")
    assert table[6].endswith("| 0.250 (1/4) |")


def test_the_root_is_the_first_that_nothing_else_has_caused():
    root = import_module("real_faults.measure").root
    caused = finding("stalled_training", step=1, cause={"kind": "dead_relu"})
    assert root([caused, finding("dead_relu", step=9), finding("nonfinite", step=5)])["kind"] == "nonfinite"
    assert root([caused])["kind"] == "stalled_training"
    assert root([]) is None


def test_what_explains_nothing_is_no_number():
    explained = import_module("real_faults.scores").explained
    wanted = torch.tensor([[0.0], [1.0], [2.0]])
    assert explained(wanted, wanted) == 1
    assert explained(torch.ones(3, 1), wanted) == 0
    assert explained(torch.full((3, 1), torch.nan), wanted) == -1


def test_both_twins_of_a_program_run_and_are_watched(known):
    measure = import_module("real_faults.measure")
    whole = known["so-50306988"]
    short = replace(whole, faulty=replace(whole.faulty, epochs=1), repaired=replace(whole.repaired, epochs=1))
    for twin in measure.TWINS:
        result = measure.run(short, twin, 0)
        # 200 rows in batches of 32
        assert (result["program"], result["twin"], result["seed"], result["steps"]) == (whole.name, twin, 0, 7)
        assert 0 <= result["score"] <= 1
        assert (result["error"], result["disabled"]) == ("", None)


def test_a_run_that_breaks_keeps_what_was_said(known):
    class Breaks(nn.Module):
        def forward(self, outputs, targets):
            raise RuntimeError("not between 0 and 1")

    whole = known["so-50306988"]
    broken = replace(whole, faulty=replace(whole.faulty, loss=Breaks))
    result = import_module("real_faults.measure").run(broken, "faulty", 0)
    assert (result["error"], result["steps"], result["loss"]) == ("not between 0 and 1", 0, None)
