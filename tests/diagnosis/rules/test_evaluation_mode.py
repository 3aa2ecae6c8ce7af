import pytest
from helpers.histories import falling, found, loops

from lightning_gradtools.diagnosis.loop_observation import LoopObservation


@pytest.mark.parametrize(("name", "code"), [("encoder", "self.encoder.train()"), ("", "self.train()")])
def test_the_module_is_named_with_the_line_that_ends_it(name, code):
    finding = found(loops([LoopObservation(evaluating=(name,))] * 3, loss=falling))["evaluation_mode", name]
    assert finding.severity == "warning"
    assert finding.remedy[0].code == code


def test_several_are_one_finding():
    findings = found(loops([LoopObservation(evaluating=("a", "b", "c"))] * 3, loss=falling))
    assert set(findings) == {("evaluation_mode", "a")}
    assert "a and 2 more" in findings["evaluation_mode", "a"].message


def test_for_two_samples_it_may_be():
    on, off = LoopObservation(evaluating=("a",)), LoopObservation()
    assert not found(loops([on, on, off, on, on], loss=falling))
