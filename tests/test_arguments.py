import math

import pytest

from lightning_gradtools.arguments import ArgumentError, boolean, described, integer, number, one_of


def test_one_of_names_the_argument_the_value_what_is_allowed_and_the_nearest_word():
    assert one_of("activation", "relu", ["relu", "gelu"]) == "relu"
    with pytest.raises(ArgumentError) as error:
        one_of("activation", "rleu", ["relu", "gelu"])
    assert str(error.value) == "activation='rleu': must be one of relu, gelu (did you mean 'relu'?)"


def test_one_of_takes_a_value_that_is_no_string():
    with pytest.raises(ArgumentError, match=r"norm=3: must be one of batch, layer$"):
        one_of("norm", 3, ["batch", "layer"])


@pytest.mark.parametrize("value", [0.0, -1, math.nan, math.inf, True, "1", None, 2])
def test_number_refuses(value):
    with pytest.raises(ArgumentError, match=r"^lr=.*: must be a finite number > 0 and < 2$"):
        number("lr", value, above=0, below=2)


@pytest.mark.parametrize("value", [1, 1.0, 1e-9])
def test_number_accepts(value):
    assert number("lr", value, above=0, at_most=1) == float(value)


def test_number_bounds_are_inclusive_where_they_say_so():
    assert number("x", 0, at_least=0) == 0
    with pytest.raises(ArgumentError, match=r"number >= 0 and <= 1$"):
        number("x", 1.1, at_least=0, at_most=1)


@pytest.mark.parametrize("value", [0, 11, 3.0, True, "3", None])
def test_integer_refuses(value):
    with pytest.raises(ArgumentError, match=r"^steps=.*: must be an integer >= 1 and <= 10$"):
        integer("steps", value, at_least=1, at_most=10)


def test_integer_accepts_its_bounds():
    assert [integer("steps", n, at_least=1, at_most=10) for n in (1, 10)] == [1, 10]


def test_boolean_takes_nothing_else():
    assert boolean("nesterov", True) is True
    assert boolean("nesterov", False) is False
    for value in ("no", 0, 1, None):
        with pytest.raises(ArgumentError, match=f"^nesterov={value!r}: must be True or False$"):
            boolean("nesterov", value)


class Built:
    def __init__(self, rate, *, steps=3, names=(), limit=None, elsewhere=1.0, nowhere=0, table=True):
        self.rate, self.steps, self.names, self.limit = rate, steps, names, limit
        self.stored = elsewhere

    def table(self):
        """A method, and no value of the argument."""


@pytest.mark.parametrize(
    ("built", "text"),
    [
        (Built(0.5), "Built(rate=0.5)"),
        (Built(0.5, steps=3, names=[], limit=None), "Built(rate=0.5)"),
        (Built("x", steps=4, names=["a"], limit=0), "Built(rate='x', steps=4, names=['a'], limit=0)"),
        (Built(0.5, elsewhere=2.0, nowhere=7, table=False), "Built(rate=0.5)"),
    ],
)
def test_what_is_built_is_described_by_the_arguments_that_are_not_as_by_default(built, text):
    assert described(built) == text


def test_values_kept_under_another_name_are_described_by_that_of_the_argument():
    built = Built(0.5, elsewhere=2.0)
    assert described(built, elsewhere=built.stored, table=False) == "Built(rate=0.5, elsewhere=2.0, table=False)"
    assert described(built, elsewhere=1.0, table=True) == "Built(rate=0.5)"


def test_a_subclass_is_described_by_its_own_name_and_constructor():
    class Mine(Built):
        def __init__(self, steps=3):
            super().__init__(0.1, steps=steps)

    assert (described(Mine()), described(Mine(5))) == ("Mine()", "Mine(steps=5)")
