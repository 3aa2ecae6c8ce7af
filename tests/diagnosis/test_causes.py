"""One cause, and under it what follows."""

import random
from dataclasses import replace

import pytest

from lightning_gradtools.diagnosis import Finding, Kind, Remedy, Severity
from lightning_gradtools.diagnosis.causes import from_causes, linked
from lightning_gradtools.diagnosis.finding_tracker import FindingTracker
from lightning_gradtools.reporting.findings import console_table, roots, verdict_line


def finding(kind, layer="", severity=Severity.WARNING, step=0):
    return Finding(kind, layer, step, severity, (), f"{kind} in {layer}")


SICK = [
    finding(Kind.STALLED_TRAINING),
    finding(Kind.DEAD_RELU, "a"),
    finding(Kind.DEAD_RELU, "b", Severity.CRITICAL),
    finding(Kind.LEARNING_RATE_TOO_HIGH, severity=Severity.CRITICAL),
    finding(Kind.NONFINITE, severity=Severity.CRITICAL),
]


def test_everything_follows_from_the_rate_and_this_from_nothing():
    causes = {(str(each.kind), each.layer): each.cause for each in linked(SICK)}
    assert causes.pop(("learning_rate_too_high", "")) is None
    assert set(causes.values()) == {(Kind.LEARNING_RATE_TOO_HIGH, "")}


def test_of_one_kind_the_worst_stands_for_all():
    dead = [finding(Kind.DEAD_RELU, name) for name in "abc"] + [finding(Kind.DEAD_RELU, "d", Severity.CRITICAL)]
    assert [each.cause and each.cause.layer for each in linked(dead)] == ["d", "d", "d", None]


@pytest.mark.parametrize("kind", [Kind.OUTPUT_MISMATCH, Kind.EVALUATION_MODE, Kind.UNSCALED_DATA])
def test_what_is_wrong_with_data_loss_or_loop_is_its_own_cause(kind):
    both = linked([finding(kind), finding(Kind.GRADIENTS_NOT_CLEARED), finding(Kind.STALLED_TRAINING)])
    assert [each.cause is None for each in both] == [True, True, False]


def test_an_info_is_no_cause():
    (mild, stalled) = linked([finding(Kind.DEAD_RELU, "a", Severity.INFO), finding(Kind.STALLED_TRAINING)])
    assert mild.cause is None
    assert stalled.cause is None


def test_whatever_is_found_there_is_a_cause_and_none_follows_from_what_follows():
    draw = random.Random(0)
    for _ in range(300):
        kinds = draw.choices(list(Kind), k=draw.randrange(1, 8))
        found = [finding(kind, draw.choice("ab"), draw.choice(list(Severity))) for kind in kinds]
        found = list({(each.kind, each.layer): each for each in found}.values())
        told = linked(found)
        by_name = {(each.kind, each.layer): each for each in told}
        assert [each for each in told if each.cause is None]
        assert all(by_name[each.cause].cause is None for each in told if each.cause is not None)
        assert all(by_name[each.cause].severity >= Severity.WARNING for each in told if each.cause is not None)


def test_every_kind_has_its_place_among_causes():
    assert [each.kind for each in from_causes(map(finding, Kind))][-1] == Kind.STALLED_TRAINING
    assert len(from_causes(map(finding, Kind))) == len(Kind)


def test_when_the_cause_is_gone_what_still_stands_is_told():
    tracker = FindingTracker()
    tracker.update([finding(Kind.LEARNING_RATE_TOO_HIGH), finding(Kind.DEAD_RELU, "a")], 0)
    assert [each.kind for each in roots(tracker.findings)] == [Kind.LEARNING_RATE_TOO_HIGH]
    news = [tracker.update([finding(Kind.DEAD_RELU, "a")], step) for step in (1, 2, 3)]
    assert [[each.kind for each in those] for those in news] == [[], [], [Kind.DEAD_RELU]]
    assert [each.kind for each in roots(tracker.findings)] == [Kind.DEAD_RELU]


def test_a_nan_withdraws_nothing():
    tracker = FindingTracker()
    tracker.update([finding(Kind.EXPLODING_GRADIENT, "a")], 0)
    for step in range(1, 10):
        tracker.update([finding(Kind.NONFINITE)], step)
    assert [each.resolved_at for each in tracker.findings] == [None, None]
    assert tracker.findings[1].cause == (Kind.EXPLODING_GRADIENT, "a")


def test_causes_survive_a_checkpoint():
    tracker, after = FindingTracker(), FindingTracker()
    tracker.update(SICK, 0)
    after.load_state_dict(tracker.state_dict())
    assert after.findings == tracker.findings


def test_people_read_one_line_a_cause_with_what_comes_with_it():
    tracker = FindingTracker()
    tracker.update(SICK, 0)
    lines = console_table(tracker.findings).splitlines()
    assert [line.split()[1] for line in lines if line.startswith("critical")] == ["learning_rate_too_high"]
    assert [line.strip() for line in lines if "with it" in line] == [
        "with it: stalled_training in (whole model)",
        "with it: dead_relu in a, b",
        "with it: nonfinite in (whole model)",
    ]
    assert "(4 more follow from it)" in verdict_line(tracker.findings, 3)


def test_beside_what_is_sick_lesser_findings_have_their_line_alone():
    remedy = (Remedy("Try this."),)
    mild = replace(finding(Kind.DEAD_RELU, "a", Severity.INFO), remedy=remedy)
    severe = replace(finding(Kind.OUTPUT_MISMATCH, "b", Severity.CRITICAL), remedy=remedy)
    assert console_table([mild]).count("Try this.") == 1
    assert console_table([mild, severe]).count("Try this.") == 1
    assert "dead_relu" in console_table([mild, severe])
