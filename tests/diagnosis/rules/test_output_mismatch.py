import pytest
from helpers.histories import falling, found, history, serious

from lightning_gradtools.diagnosis.contracts import Contracts, LossCall, LossMeasures
from lightning_gradtools.diagnosis.observation import NonfiniteEvent


def made(*calls, **settings):
    run = history(**settings)
    run.contracts = [Contracts(step=step, losses=calls) for step in (0, 1, 2)]
    return run


def call(function="mse_loss", activations=("sigmoid",), layer="4", outputs=1, constant=False, **measures):
    return LossCall(
        function=function,
        layer=layer,
        activations=activations,
        outputs=outputs,
        constant=constant,
        measures=LossMeasures(samples=32, **measures),
    )


def test_a_softmax_over_one_unit_is_critical_however_the_loss_falls():
    finding = found(made(call(activations=("softmax",), constant=True), loss=falling))["output_mismatch", "4"]
    assert finding.severity == "critical"
    assert "4 has one unit" in finding.message


def test_beside_other_losses_it_is_a_warning():
    run = made(call(activations=("softmax",), constant=True), call(layer="5", activations=()), loss=falling)
    assert found(run)["output_mismatch", "4"].severity == "warning"


@pytest.mark.parametrize(
    ("outside", "unreachable", "told"), [(0.06, 0.02, True), (0.04, 0.9, False), (0.9, 0.005, False)]
)
def test_both_the_share_outside_and_what_it_costs_must_matter(outside, unreachable, told):
    run = made(call(outside=outside, unreachable=unreachable, lowest=-3.0, highest=5.0), loss=falling)
    assert serious(run) == ({("output_mismatch", "4")} if told else set())


@pytest.mark.parametrize("last", ["relu", "softplus", "gelu", "tanh", "silu", "hardtanh"])
def test_logits_that_are_cut_off(last):
    for function in ("cross_entropy", "binary_cross_entropy_with_logits"):
        run = made(call(function, (last,), outputs=3), loss=falling)
        assert serious(run) == {("output_mismatch", "4")}
    assert last in found(run)["output_mismatch", "4"].remedy[0].sentence
    assert not serious(made(call("mse_loss", (last,)), loss=falling))
    assert serious(made(call("binary_cross_entropy", ("sigmoid", last)), loss=falling))
    assert serious(made(call("nll_loss", ("log_softmax", last), outputs=3), loss=falling))


def test_the_bound_of_a_tanh_is_that_of_its_probabilities():
    run = made(call("cross_entropy", ("tanh",), outputs=10), loss=falling)
    # One logit at 1 and nine at -1: 1 / (1 + 9 e^-2) = 0.45.
    assert "over 0.45" in found(run)["output_mismatch", "4"].message
    bits = made(call("binary_cross_entropy_with_logits", ("tanh",)), loss=falling)
    assert "under 0.27 or over 0.73" in found(bits)["output_mismatch", "4"].message


def test_targets_of_one_of_several_losses_count_only_once_training_fails():
    calls = call(outside=0.5, unreachable=0.5), call(layer="5", activations=())
    assert not serious(made(*calls, loss=falling))
    assert ("output_mismatch", "4") in serious(made(*calls))


@pytest.mark.parametrize(("outputs", "undistributed", "told"), [(3, 0.06, True), (3, 0.04, False), (1, 1.0, False)])
def test_a_softmax_for_several_labels(outputs, undistributed, told):
    run = made(call("binary_cross_entropy", ("softmax",), outputs=outputs, undistributed=undistributed), loss=falling)
    assert serious(run) == ({("output_mismatch", "4")} if told else set())


def test_a_nan_later_on_does_not_hide_it():
    run = made(call(outside=0.5, unreachable=0.5), loss=falling)
    run.nonfinite.append(NonfiniteEvent(99, 1, 0, "forward", "a"))
    assert {("output_mismatch", "4"), ("nonfinite", "a")} <= serious(run)


def test_nothing_without_contracts():
    assert not found(history(loss=falling))
