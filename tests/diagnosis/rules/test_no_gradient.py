import pytest
from helpers.histories import falling, found, history, layers, serious

from lightning_gradtools.diagnosis.rules.no_gradient import outermost


def test_exactly_zero_or_none_again_and_again():
    for gradient in (0.0, None):
        made = history(loss=falling, seen=lambda s, g=gradient: (*layers([None], gradient=g), *layers([1.0] * 3)[1:]))
        assert serious(made) == {("no_gradient", "0")}


def test_where_to_look_depends_on_whether_something_came_back():
    sentences = {}
    for back in (None, 0.0):
        made = history(loss=falling, seen=lambda s, b=back: (*layers([b], gradient=0.0), *layers([1.0] * 3)[1:]))
        sentences[back] = found(made)["no_gradient", "0"].remedy[0].sentence
    assert ".detach()" in sentences[None]
    assert "softmax over one unit" in sentences[0.0]


@pytest.mark.parametrize(
    "settings", [{"gradient": 1e-30}, {"gradient": 0.0, "trainable": False}], ids=["tiny", "frozen"]
)
def test_tiny_and_frozen_are_something_else(settings):
    made = history(loss=falling, seen=lambda s: (*layers([None], **settings), *layers([1.0] * 3)[1:]))
    assert not found(made)


def test_a_module_all_of_whose_layers_are_cut_off_is_named_once():
    known = ["net.a.0", "net.a.1.conv", "net.a.1", "net.b.0", "net.b.1", "net.c", "head"]
    assert outermost({"net.a.0", "net.a.1.conv", "net.a.1", "net.b.1", "net.c"}, known) == ["net.a", "net.b.1", "net.c"]
    assert outermost(set(known), known) == ["head", "net"]
    assert outermost({"net.a.1.conv"}, known) == ["net.a.1.conv"]
    assert outermost({"ne"}, ["ne", "net.a"]) == ["ne"]


def test_zero_in_the_first_steps_only():
    made = history(
        loss=falling, seen=lambda s: (*layers([1.0], gradient=0.0 if s < 30 else 1.0), *layers([1.0] * 3)[1:])
    )
    assert not found(made)
