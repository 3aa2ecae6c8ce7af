import math

import pytest

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.gradients.layers import LayerGrouping, LayerTable, compiled, largest

NAMES = ["stem.weight", "stem.bias", "blocks.0.attention.weight", "blocks.1.attention.weight", "scale"]


@pytest.mark.parametrize(
    ("group_by", "layers"),
    [
        ("parameter", NAMES),
        ("module", ["stem", "stem", "blocks.0.attention", "blocks.1.attention", "scale"]),
        (r"^blocks\.(\d+)", ["stem.weight", "stem.bias", "0", "1", "scale"]),
        (r"\w+$", ["weight", "bias", "weight", "weight", "scale"]),
    ],
)
def test_the_layer_of_a_parameter(group_by, layers):
    grouping = LayerGrouping(group_by)
    grouping.check(NAMES)
    assert [grouping.layer(name) for name in NAMES] == layers


def test_exclude_wins_over_include():
    grouping = LayerGrouping("parameter", include=["stem", "0"], exclude="bias")
    assert [name for name in NAMES if grouping.layer(name)] == ["stem.weight", "blocks.0.attention.weight"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"include": "steam"}, r"include='steam': must be found in the name of a parameter \(stem\.weight, .*, …\)$"),
        ({"exclude": ["e"]}, r"exclude=\['e'\]: must leave a parameter to report"),
        ({"group_by": "modul"}, r"group_by='modul': .*\(did you mean 'module'\?\)$"),
        ({"group_by": r"layer\.(\d+)"}, r"group_by='layer.*': must be 'parameter', 'module' or a regular expression"),
    ],
    ids=str,
)
def test_patterns_that_cannot_be_meant_are_refused(arguments, message):
    grouping = LayerGrouping(**{"group_by": "parameter", **arguments})
    with pytest.raises(ArgumentError, match=f"^{message}"):
        grouping.check(NAMES)
    grouping.check([])  # a module without parameters is no reason


@pytest.mark.parametrize("wrong", [3, None, b"weight", [3], True], ids=repr)
def test_what_is_no_pattern_is_refused(wrong):
    with pytest.raises(ArgumentError, match=r"^unit=.*: must be a regular expression or a list of them$"):
        compiled("unit", wrong)


def test_layers_are_listed_by_depth_and_their_norms_joined():
    table = LayerTable(["b", None, "a", "b", "c"], depth=[3, 0, 1, 4, 2])
    assert table.names == ["a", "c", "b"]
    assert table.norms([3.0, 100.0, 1.0, 4.0, 2.0], 2) == [1.0, 2.0, 5.0]
    assert table.norms([3.0, 100.0, 1.0, 4.0, 2.0], 1) == [1.0, 2.0, 7.0]
    assert table.norms([3.0, 100.0, 1.0, 4.0, 2.0], math.inf) == [1.0, 2.0, 4.0]
    assert math.isnan(table.norms([math.nan, 0.0, 1.0, 4.0, 2.0], math.inf)[2])
    assert table.sums([3.0, 100.0, 1.0, 4.0, 2.0]) == [1.0, 2.0, 7.0]


def test_layers_of_one_parameter_each_follow_depth_too():
    table = LayerTable(["second", "first"], depth=[7, 2])
    assert table.names == ["first", "second"]
    assert table.norms([2.0, 1.0], 2) == [1.0, 2.0]
    assert LayerTable(["x", "y"]).norms([2.0, 1.0], 2) == [2.0, 1.0]


def test_the_largest_and_a_nan_above_all():
    assert largest([1.0, 5.0, math.nan, 3.0], 2) == [2, 1]
    assert largest([1.0], 0) == []
