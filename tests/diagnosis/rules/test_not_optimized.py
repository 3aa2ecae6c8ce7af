from helpers.histories import falling, found, loops

from lightning_gradtools.diagnosis.loop_observation import LoopObservation


def left_out(share, *names):
    return LoopObservation(unoptimized=names, unoptimized_share=share, unoptimized_norm=0.25)


def test_a_few_left_out_of_many_are_forgotten():
    finding = found(loops([left_out(0.1, "3.weight", "3.bias")] * 3, loss=falling))["not_optimized", "3"]
    assert finding.severity == "warning"
    assert finding.remedy[0].code == "optimizer.add_param_group({'params': self.3.parameters()})"
    assert finding.remedy[1].code == "self.3.requires_grad_(False)"


def test_a_parameter_of_the_module_itself_is_named():
    finding = found(loops([left_out(0.1, "scale")] * 3, loss=falling))["not_optimized", "scale"]
    assert finding.remedy[0].code == "optimizer.add_param_group({'params': [self.scale]})"


def test_most_left_out_of_all_are_meant_while_the_run_learns():
    made = [left_out(0.9, "0.weight", "1.weight")] * 11
    assert found(loops(made, loss=falling))["not_optimized", "0.weight"].severity == "info"
    assert found(loops(made))["not_optimized", "0.weight"].severity == "warning"


def test_all_are_another_network():
    finding = found(loops([left_out(1.0, "0.weight")] * 3, loss=falling))["not_optimized", ""]
    assert finding.severity == "critical"


def test_for_two_samples_they_may_be():
    assert not found(loops([*[left_out(0.1, "a")] * 2, LoopObservation(), *[left_out(0.1, "a")] * 2], loss=falling))
