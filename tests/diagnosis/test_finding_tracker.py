from dataclasses import replace

import pytest

from lightning_gradtools.diagnosis import Finding, Kind, Severity
from lightning_gradtools.diagnosis.finding_tracker import FindingTracker


def finding(step, severity=Severity.WARNING, layer="a"):
    return Finding(Kind.DEAD_RELU, layer, step, severity, (), f"at {step}")


def test_the_same_pathology_is_one_finding_with_the_latest_words():
    tracker = FindingTracker()
    assert tracker.update([finding(1)], 1) == [finding(1)]
    assert tracker.update([finding(2)], 2) == []
    assert tracker.findings == [replace(finding(2), step=1)]


def test_it_escalates_and_step_is_when():
    tracker = FindingTracker()
    tracker.update([finding(1, Severity.INFO)], 1)
    assert tracker.update([finding(5, Severity.CRITICAL)], 5) == [finding(5, Severity.CRITICAL)]
    assert tracker.findings == [finding(5, Severity.CRITICAL)]


def test_it_is_withdrawn_after_three_evaluations_without_evidence_and_may_come_back():
    tracker = FindingTracker()
    tracker.update([finding(1)], 1)
    tracker.update([], 2)
    tracker.update([finding(3)], 3)  # starts the count again
    for step in (4, 5):
        tracker.update([], step)
    assert tracker.findings[0].resolved_at is None
    tracker.update([], 6)
    assert tracker.findings[0].resolved_at == 6
    assert tracker.update([finding(7)], 7) == [finding(7)]
    assert [each.resolved_at for each in tracker.findings] == [6, None]


def test_what_is_left_at_a_lower_severity_withdraws_the_higher():
    tracker = FindingTracker()
    tracker.update([finding(1, Severity.CRITICAL)], 1)
    for step in range(2, 6):
        tracker.update([finding(step, Severity.INFO)], step)
    assert [(each.severity, each.resolved_at) for each in tracker.findings] == [
        (Severity.CRITICAL, 4),
        (Severity.INFO, None),
    ]


@pytest.mark.parametrize("cut", range(1, 6))
def test_a_resumed_tracker_goes_on(cut):
    script = [[finding(1), finding(1, layer="b")], [finding(2)], [finding(3)], [], [finding(5)], []]
    whole, before, after = FindingTracker(), FindingTracker(), FindingTracker()
    for step, candidates in enumerate(script):
        whole.update(candidates, step)
    for step in range(cut):
        before.update(script[step], step)
    after.load_state_dict(before.state_dict())
    for step in range(cut, len(script)):
        after.update(script[step], step)
    assert after.findings == whole.findings


def test_states_of_other_versions_load():
    tracker = FindingTracker()
    tracker.update([finding(1)], 1)
    saved = {**tracker.state_dict(), "added later": 1}
    loaded = FindingTracker()
    loaded.load_state_dict(saved)
    assert loaded.findings == tracker.findings
    loaded.load_state_dict({})
    assert loaded.findings == []
