"""What first steps showed: its means over them, and its way through a checkpoint."""

import json

from lightning_gradtools.diagnosis.contracts import (
    Contracts,
    FirstInput,
    InputMeasures,
    LossCall,
    LossMeasures,
    first_input,
    loss_calls,
)
from lightning_gradtools.diagnosis.observation import History


def call(mean, activations=("relu",)):
    return LossCall(function="mse_loss", layer="a", activations=activations, measures=LossMeasures(mean=mean))


def given(scale, layer="a"):
    return FirstInput(layer=layer, plain=True, measures=InputMeasures(scale=scale))


def test_calls_of_one_place_are_joined_and_others_are_not():
    seen = [Contracts(step=0, losses=(call(1.0), call(9.0, ()))), Contracts(step=1, losses=(call(3.0),))]
    assert [(each.activations, each.measures.mean) for each in loss_calls(seen)] == [(("relu",), 2.0), ((), 9.0)]


def test_the_first_layer_is_known_only_where_it_is_one():
    assert first_input([Contracts(step=0, input=given(1.0)), Contracts(step=1, input=given(3.0))]) == given(2.0)
    assert first_input([Contracts(step=0, input=given(1.0)), Contracts(step=1, input=given(3.0, "b"))]) is None
    assert first_input([Contracts(step=0)]) is None


def test_scale_and_offset():
    measures = LossMeasures(square=25.0, mean=-4.0, spread=2.0)
    assert (measures.scale, measures.offset, LossMeasures(mean=3.0).offset) == (5.0, 2.0, 0.0)


def test_a_history_keeps_them_through_a_checkpoint_and_lacks_them_in_an_older_one():
    history = History()
    for step in range(7):
        history.add_contracts(
            Contracts(step=step, losses=(call(1.0),), input=given(2.0), fingerprints=(1.0, 2.0), sized=True), anew=False
        )
    assert [each.step for each in history.contracts] == [2, 3, 4, 5, 6]
    state = json.loads(json.dumps(history.as_dict()))
    assert History.from_dict(state).contracts == history.contracts
    state["contracts"][0]["input"] = None
    state["contracts"][0]["losses"][0]["of another version"] = 1
    del state["contracts"][0]["losses"][0]["measures"]["beyond"]
    assert History.from_dict(state).contracts[0] == Contracts(
        step=2, losses=(call(1.0),), fingerprints=(1.0, 2.0), sized=True
    )
    del state["contracts"]
    assert History.from_dict(state).contracts == []


def test_a_fit_that_shows_them_anew_forgets_those_of_the_one_before():
    history = History()
    history.add_contracts(Contracts(step=0), anew=True)
    history.add_contracts(Contracts(step=50), anew=True)
    history.add_contracts(Contracts(step=60), anew=False)
    assert [each.step for each in history.contracts] == [50, 60]
