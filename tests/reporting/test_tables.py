import math

from lightning_gradtools.reporting.tables import gradient_table


def cells(lines):
    return [line.split() for line in lines]


def test_first_median_and_last_norm_of_each_layer_in_their_order():
    records = [
        {
            "grad_norm/total": 9.0,
            "grad_norm/b.layer": norm,
            "grad_norm/a.layer": 10 * norm,
            "grad_norm_clipped/total": 1.0,
        }
        for norm in (1.0, 5.0, 2.0)
    ]
    assert cells(gradient_table([4, 9, 14], records)) == [
        ["gradient", "norm", "of", "step", "4", "median", "step", "14"],
        ["b.layer", "1", "2", "2"],
        ["a.layer", "10", "20", "20"],
    ]


def test_of_many_layers_the_first_and_the_last_are_shown():
    lines = gradient_table([0], [{f"grad_norm/{n}": float(n) for n in range(30)}])
    assert [row[0] for row in cells(lines)[1:]] == [
        "0",
        "1",
        "2",
        "3",
        "4",
        "5",
        "…",
        "24",
        "25",
        "26",
        "27",
        "28",
        "29",
    ]
    assert "18 more" in lines[7]


def test_a_layer_that_was_not_always_logged_and_norms_that_are_not_numbers():
    lines = gradient_table([0, 1], [{"grad_norm/a": 1.0}, {"grad_norm/a": math.nan, "grad_norm/b": 3.0}])
    assert cells(lines)[1] == ["a", "1", "1", "nan"]
    assert cells(lines)[2] == ["b", "3", "3", "3"]


def test_without_layers_there_is_no_table():
    assert gradient_table([0], [{"grad_norm/total": 1.0}]) == []
    assert gradient_table([0], [{"grad_norm/total/optimizer_0": 1.0, "grad_norm/total/optimizer_1": 1.0}]) == []
    assert gradient_table([], []) == []


def test_only_keys_with_the_prefix_count_and_a_given_order_comes_first():
    records = [{"my/grad_norm/a": 1.0, "grad_norm/b": 2.0, "my/grad_norm/c": 3.0, "my/grad_norm/d": 4.0}]
    lines = gradient_table([0], records, "my/", ["my/grad_norm/d", "my/grad_norm/gone", "my/grad_norm/a"])
    assert [row[0] for row in cells(lines)[1:]] == ["d", "a", "c"]
