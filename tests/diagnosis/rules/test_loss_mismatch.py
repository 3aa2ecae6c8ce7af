import pytest
from helpers.histories import falling, found, history, serious

from lightning_gradtools.diagnosis.contracts import Contracts, LossCall, LossMeasures


def made(function, activations=(), outputs=1, constant=False, fails=False, **measures):
    run = history() if fails else history(loss=falling)
    call = LossCall(
        function=function,
        layer="4",
        activations=activations,
        outputs=outputs,
        constant=constant,
        measures=LossMeasures(samples=32, **measures),
    )
    run.contracts = [Contracts(step=0, losses=(call,))]
    return run


def severity(run):
    finding = found(run).get(("loss_mismatch", "4"))
    return None if finding is None else str(finding.severity)


@pytest.mark.parametrize(
    ("function", "activations", "measures", "told"),
    [
        ("cross_entropy", ("softmax",), {}, "warning"),
        ("cross_entropy", ("sigmoid",), {}, "warning"),
        ("cross_entropy", ("log_softmax", "softmax"), {}, "warning"),
        ("cross_entropy", ("log_softmax",), {}, None),
        ("cross_entropy", (), {"simplex": 1.0}, "warning"),
        ("cross_entropy", (), {"simplex": 0.98}, None),
        ("cross_entropy", (), {"undistributed": 0.06, "lowest": -1.0}, "warning"),
        ("cross_entropy", (), {"undistributed": 0.06}, "info"),
        ("cross_entropy", (), {"undistributed": 0.04, "lowest": -1.0}, None),
        ("nll_loss", ("log_softmax",), {}, None),
        ("nll_loss", ("log_softmax", "softmax"), {}, "warning"),
        ("nll_loss", ("log_softmax",), {"light": 0.6}, "warning"),
        ("nll_loss", (), {"light": 1.0}, None),
        ("nll_loss", (), {"heavy": 0.6}, "warning"),
        ("nll_loss", (), {"heavy": 0.4}, None),
        ("binary_cross_entropy", ("sigmoid",), {}, None),
        ("binary_cross_entropy", ("sigmoid", "sigmoid"), {}, "warning"),
        ("binary_cross_entropy_with_logits", ("sigmoid",), {}, "warning"),
        ("binary_cross_entropy_with_logits", ("softmax",), {}, "warning"),
        ("binary_cross_entropy_with_logits", (), {"beyond": 0.06, "highest": 2.0, "whole": 1.0}, "warning"),
        ("binary_cross_entropy_with_logits", (), {"beyond": 0.04, "highest": 2.0, "whole": 1.0}, None),
    ],
)
def test_what_each_loss_asks_for(function, activations, measures, told):
    assert severity(made(function, activations, outputs=3, **measures)) == told


@pytest.mark.parametrize(
    ("outputs", "measures", "advised"),
    [
        (3, {"one_hot": 1.0, "bits": 1.0}, "argmax"),
        (1, {"bits": 1.0, "whole": 1.0}, "binary_cross_entropy_with_logits"),
        (1, {"whole": 1.0, "highest": 9.0}, "long()"),
    ],
)
def test_classes_as_numbers_are_unusual_until_training_fails(outputs, measures, advised):
    measures = {"highest": 1.0, **measures}
    assert severity(made("mse_loss", outputs=outputs, **measures)) == "info"
    assert severity(made("mse_loss", outputs=outputs, fails=True, **measures)) == "warning"
    assert advised in found(made("mse_loss", outputs=outputs, **measures))["loss_mismatch", "4"].remedy[0].code


@pytest.mark.parametrize(
    ("outputs", "measures"),
    [
        (3, {"bits": 1.0, "whole": 1.0, "highest": 1.0}),  # several labels each
        (1, {"whole": 1.0, "highest": 51.0}),
        (1, {"whole": 1.0, "lowest": 25.0, "highest": 46.0}),
        (1, {"whole": 1.0, "lowest": -3.0, "highest": 5.0}),
        (1, {"whole": 0.9, "highest": 5.0}),
        (1, {"whole": 1.0, "bits": 1.0, "lowest": 1.0, "highest": 1.0}),
    ],
)
def test_other_targets_are_numbers(outputs, measures):
    assert severity(made("mse_loss", outputs=outputs, fails=True, **measures)) is None


def test_bits_of_a_softmax():
    assert severity(made("binary_cross_entropy", ("softmax",), 3, one_hot=1.0)) == "info"
    assert severity(made("binary_cross_entropy", ("softmax",), 3, one_hot=1.0, fails=True)) == "warning"
    assert severity(made("binary_cross_entropy", ("softmax",), 2, one_hot=1.0, fails=True)) is None


def test_one_class_is_critical_and_a_softmax_over_it_is_told_once():
    assert severity(made("cross_entropy")) == "critical"
    assert serious(made("cross_entropy", ("softmax",), constant=True)) == {("output_mismatch", "4")}
