import pytest
from helpers.histories import falling, found, loops

from lightning_gradtools.diagnosis.loop_observation import LoopObservation

LEFT = LoopObservation(uncleared=("1.weight", "1.bias"), left_over=0.5)
CLEARED = LoopObservation(uncleared=())
UNKNOWN = LoopObservation()


def test_what_is_left_over_twice_running_is_critical():
    finding = found(loops([LEFT, UNKNOWN, LEFT], loss=falling))["gradients_not_cleared", "1"]
    assert finding.severity == "critical"
    assert finding.evidence[0].value == 0.5
    assert "1.weight and 1 other" in finding.message
    assert finding.remedy[0].code == "optimizer.zero_grad()"


def test_all_layers_are_the_whole_model():
    everything = LoopObservation(uncleared=tuple(f"{i}.weight" for i in range(5)), left_over=1.0)
    assert ("gradients_not_cleared", "") in found(loops([everything] * 2))


@pytest.mark.parametrize(
    "seen", [[LEFT], [LEFT, CLEARED], [LEFT, CLEARED, UNKNOWN, LEFT], [CLEARED] * 4, [UNKNOWN] * 4]
)
def test_once_is_not_enough(seen):
    assert "gradients_not_cleared" not in {kind for kind, _ in found(loops(seen))}


def test_what_the_first_steps_showed_does_not_fall_out_of_the_window():
    assert ("gradients_not_cleared", "1") in found(loops([LEFT, LEFT, *[UNKNOWN] * 100]))
