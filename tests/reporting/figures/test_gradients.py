import math

import pytest

from lightning_gradtools.reporting.figures.gradients import norms_over_depth


def lines(figure):
    (axes,) = figure.axes
    return axes, {line.get_label(): list(line.get_ydata()) for line in axes.lines}


def test_a_line_a_step_over_the_layers_in_order():
    axes, drawn = lines(norms_over_depth([4, 9], [{"a": 1.0, "b": 10.0}, {"a": 2.0, "b": 20.0}]))
    assert drawn == {"step 4": [1.0, 10.0], "step 9": [2.0, 20.0]}
    assert axes.get_yscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b"]


def test_of_many_steps_some_are_drawn_the_first_and_the_last_among_them():
    _, drawn = lines(norms_over_depth(range(100), [{"a": 1.0}] * 100))
    assert len(drawn) == 8
    assert {"step 0", "step 99"} <= set(drawn)


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_what_a_logarithm_cannot_show_is_a_gap(bad):
    _, drawn = lines(norms_over_depth([0], [{"a": 1.0, "b": bad}]))
    assert drawn["step 0"][0] == 1.0
    assert math.isnan(drawn["step 0"][1])


def test_a_layer_that_a_step_lacks_is_a_gap():
    _, drawn = lines(norms_over_depth([0, 1], [{"a": 1.0}, {"a": 1.0, "b": 2.0}]))
    assert math.isnan(drawn["step 0"][1])


def test_a_hundred_layers_keep_their_names_legible():
    axes, _ = lines(norms_over_depth([0], [{f"layer.{n}": 1.0 for n in range(100)}]))
    assert len(axes.get_xticklabels()) <= 24


def test_steps_with_nothing_to_show_leave_the_others_their_place():
    nothing = {"a": math.nan, "b": 0.0}
    _, drawn = lines(norms_over_depth(range(100), [{"a": 1.0, "b": 2.0}] * 3 + [nothing] * 97))
    assert drawn == {f"step {step}": [1.0, 2.0] for step in range(3)}
    _, none = lines(norms_over_depth([0], [nothing]))
    assert none == {}


def test_the_order_of_depth_may_be_told():
    axes, drawn = lines(norms_over_depth([0], [{"a": 1.0, "b": 2.0}], ["b", "a"]))
    assert drawn == {"step 0": [2.0, 1.0]}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["b", "a"]
