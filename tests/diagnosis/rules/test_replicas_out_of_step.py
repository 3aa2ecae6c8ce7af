from helpers.histories import falling, found, loops

from lightning_gradtools.diagnosis.loop_observation import LoopObservation

APART = LoopObservation(apart=("2.weight",), spread=3e-3)


def test_weights_that_differ_three_times_running_are_critical():
    finding = found(loops([APART] * 3, loss=falling))["replicas_out_of_step", "2"]
    assert finding.severity == "critical"
    assert finding.evidence[0].value == 3e-3
    assert "2.weight" in finding.message
    assert all(each.code for each in finding.remedy)


def test_for_two_samples_they_may():
    together = LoopObservation()
    assert not found(loops([APART, APART, together, APART, APART], loss=falling))
