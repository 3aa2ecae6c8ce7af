import pytest
from helpers.histories import falling, found, history

from lightning_gradtools.diagnosis.contracts import Contracts, FirstInput, InputMeasures, LossCall, LossMeasures
from lightning_gradtools.diagnosis.observation import NonfiniteEvent


def made(inputs=None, plain=True, targets=None, function="mse_loss", losses=1, fails=False, rate=None, samples=32):
    run = history(rate=rate or (lambda step: 0.1)) if fails else history(loss=falling)
    layer = None
    if inputs is not None:
        layer = FirstInput(layer="0", plain=plain, measures=InputMeasures(samples=samples, **inputs))
    calls = ()
    if targets is not None:
        one = LossCall(function=function, layer="4", measures=LossMeasures(samples=samples, **targets))
        calls = tuple(LossCall(**{**vars(one), "layer": str(i)}) for i in range(losses))
    run.contracts = [Contracts(step=0, losses=calls, input=layer)]
    return run


def severity(run, layer=""):
    finding = found(run).get(("unscaled_data", layer))
    return None if finding is None else str(finding.severity)


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({"scale": 101.0}, True),
        ({"scale": 99.0}, False),
        ({"scale": 9e-4}, True),
        ({"scale": 0.0}, False),
        ({"scale": float("inf"), "offset": float("inf")}, False),  # which another rule names
        ({"scale": 1.0, "offset": 11.0}, True),
        ({"scale": 1.0, "offset": 9.0}, False),
        ({"scale": 200.0, "alike": 1.0}, False),
    ],
)
def test_inputs(inputs, told):
    assert severity(made(inputs), "0") == ("info" if told else None)
    assert severity(made(inputs, fails=True), "0") == ("warning" if told else None)
    assert severity(made(inputs, plain=False, fails=True), "0") is None


def test_an_offset_is_not_judged_on_a_few_samples():
    assert severity(made({"scale": 1.0, "offset": 11.0}, samples=4, fails=True), "0") is None


@pytest.mark.parametrize(
    ("targets", "told"),
    [
        ({"square": 1e6, "spread": 1e3}, True),
        ({"square": 81.0, "spread": 9.0}, False),
        ({"mean": 50.0, "square": 2501.0, "spread": 1.0}, True),
        ({"mean": 14.0, "square": 221.0, "spread": 5.0}, False),
        ({"mean": 3.0, "square": 9.0, "lowest": 3.0, "highest": 3.0}, True),
        ({}, False),  # all are 0: the residual of an equation
    ],
)
def test_targets(targets, told):
    assert severity(made(targets=targets)) == ("info" if told else None)
    assert severity(made(targets=targets, fails=True)) == ("warning" if told else None)
    assert severity(made(targets=targets, function="cross_entropy", fails=True)) is None


def test_a_constant_target_beside_others_says_nothing():
    assert severity(made(targets={"mean": 1.0, "square": 1.0, "lowest": 1.0, "highest": 1.0}, losses=2)) is None


def test_a_warm_up_has_time():
    def rising(step):
        return 1e-3 * (step + 1)

    assert severity(made({"scale": 1e3}, fails=True, rate=rising), "0") == "info"


def test_a_nan_is_failing():
    run = made({"scale": 1e3})
    run.nonfinite.append(NonfiniteEvent(99, 1, 0, "forward", "a"))
    assert severity(run, "0") == "warning"
