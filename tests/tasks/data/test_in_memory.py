import pytest

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.tasks import DigitsData, TabularData, TextData

DATA = [DigitsData, TabularData, TextData]


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: must be an integer >= 1"),
        ({"num_workers": -1}, "num_workers=-1: must be an integer >= 0"),
        ({"seed": -1}, "seed=-1: must be an integer >= 0"),
        ({"fractions": (0.5, 0.2, 0.2)}, r"fractions=\[0.5, 0.2, 0.2\]: must sum to 1"),
        ({"fractions": (0.5, 0.5)}, r"fractions=\(0.5, 0.5\): must be three shares: train, val and test"),
        ({"fractions": 0.8}, "fractions=0.8: must be three shares"),
        ({"fractions": (1, 0, 0)}, "fractions=1: must be a finite number > 0 and < 1"),
    ],
)
def test_bad_arguments(data, bad, message):
    with pytest.raises(ArgumentError, match=f"^{message}"):
        data(**bad)


@pytest.mark.parametrize(("data", "size"), [(DigitsData, 1259), (TabularData, 266), (TextData, 7031)])
def test_a_batch_larger_than_the_training_set(data, size):
    data(batch_size=size).setup("fit")
    with pytest.raises(ArgumentError, match=f"^batch_size={size + 1}: must be at most {size}, the size of the"):
        data(batch_size=size + 1).setup("fit")


def test_an_empty_split():
    with pytest.raises(ArgumentError, match=r"the test split of 442 samples is empty$"):
        TabularData(fractions=(0.499, 0.5, 0.001)).setup("fit")


@pytest.mark.parametrize("data", [DigitsData, TabularData])
def test_without_scikit_learn(data, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    with pytest.raises(ArgumentError, match=r"needs scikit-learn: pip install 'lightning-gradtools\[cli\]'$"):
        data().setup("fit")
