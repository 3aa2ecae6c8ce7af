from helpers.histories import falling, found, history, layers, serious

from lightning_gradtools.diagnosis import Severity
from lightning_gradtools.diagnosis.finding_tracker import FindingTracker
from lightning_gradtools.diagnosis.observation import History, Observation
from lightning_gradtools.diagnosis.rules import diagnose


def test_units_that_are_all_alike():
    made = history(every=1, steps=20, seen=lambda s: layers([1.0] * 3, identical=True))
    assert found(made)["poor_initialization", "0"].severity == Severity.CRITICAL


def test_alike_at_first_only_is_healthy():
    made = history(loss=falling, every=1, steps=20, seen=lambda s: layers([1.0] * 3, identical=s == 0))
    assert not found(made)


def test_a_signal_that_dies_out():
    def seen(step):
        return tuple(layers([1.0] * 4, signal=0.01**i)[i] for i in range(4))

    assert ("poor_initialization", "3") in serious(history(every=2, seen=seen))
    assert not serious(history(loss=falling, every=2, seen=seen))


def test_it_stands_when_the_first_step_has_left_the_latest_observations():
    made, tracker = History(), FindingTracker()
    for step in range(2 * History.MAX_OBSERVATIONS):
        made.add_loss(step, 2.3)
        made.add(Observation(step, layers([1.0] * 3, identical=True), learning_rate=0.1))
        tracker.update(diagnose(made), step)
    assert made.observations[0].step > 4
    assert [(str(each.kind), each.resolved_at) for each in tracker.findings if each.layer] == [
        ("poor_initialization", None)
    ]


def test_a_first_loss_far_above_that_of_a_constant():
    made = history(loss=lambda step: 46.0, skill=lambda step: 1 - 20.0)
    finding = found(made)["poor_initialization", ""]
    assert (finding.severity, finding.evidence[0].value) == (Severity.WARNING, 20.0)


def test_a_run_whose_first_step_was_not_seen_is_not_judged():
    made = history(every=1, steps=20, seen=lambda s: layers([1.0] * 3, identical=True))
    later = History()
    for step in range(1, 20):
        later.add_loss(step, 2.3)
        later.add(made.observations[step])
    assert ("poor_initialization", "0") in found(made)
    assert ("poor_initialization", "0") not in found(later)
