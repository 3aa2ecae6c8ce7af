import pytest
import torch
from sklearn.datasets import load_diabetes

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.tasks import TabularData


@pytest.mark.parametrize(
    ("dataset", "rows", "features", "classes"),
    [("diabetes", 442, 10, None), ("wine", 178, 13, 3), ("breast_cancer", 569, 30, 2)],
)
def test_the_table_in_the_docstring(dataset, rows, features, classes):
    data = TabularData(dataset)
    assert sum(map(len, data.splits)) == rows
    assert (data.num_features, data.num_classes, data.input_shape) == (features, classes, (features,))
    targets = torch.cat([split.targets for split in data.splits])
    if classes is None:
        assert targets.dtype == torch.float32
    else:
        assert targets.unique().tolist() == list(range(classes))


def test_standardized_by_the_training_rows():
    train = TabularData().splits.train
    torch.testing.assert_close(train.inputs.mean(0), torch.zeros(10), atol=1e-5, rtol=0)
    torch.testing.assert_close(train.inputs.std(0), torch.ones(10))
    assert train.targets.std().item() == pytest.approx(1, abs=1e-5)


def test_raw_targets_and_chosen_columns_are_those_of_the_table():
    data = TabularData(features=["s5", "bmi"], standardize_target=False)
    table, targets = load_diabetes(return_X_y=True, scaled=False)
    table = torch.as_tensor(table, dtype=torch.float32)[:, [8, 2]]
    order = torch.randperm(442, generator=torch.Generator().manual_seed(0))
    train, val, _ = order.split([266, 88, 88])
    assert torch.equal(data.splits.val.targets, torch.as_tensor(targets, dtype=torch.float32)[val])
    expected = (table - table[train].mean(0)) / table[train].std(0)
    torch.testing.assert_close(data.splits.val.inputs, expected[val])


def test_another_target_is_a_regression_on_the_other_columns():
    data = TabularData("wine", target="alcohol")
    assert data.num_classes is None
    assert data.num_features == 12
    assert data.splits.train.targets.dtype == torch.float32


def test_a_constant_column_stays_finite(monkeypatch):
    table = {"same": torch.full((50,), 3.0), "rising": torch.arange(50.0), "target": torch.arange(50.0)}
    monkeypatch.setattr(TabularData, "_columns", lambda self: table)
    for split in TabularData().splits:
        assert torch.equal(split.inputs[:, 0], torch.zeros(len(split)))
        assert split.inputs[:, 1].isfinite().all()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            {"dataset": "whine"},
            "dataset='whine': must be one of diabetes, wine, breast_cancer .did you mean 'wine'",
        ),
        (
            {"features": ["bmi", "bpp"]},
            "features: there is no column 'bpp' .did you mean 'bp'.*age, sex, bmi, bp,",
        ),
        ({"target": "y"}, "target: there is no column 'y'; there are age, .*s6, target"),
        ({"features": "bmi"}, "features='bmi': must be a list of columns"),
        ({"features": []}, "features=.*: must name at least one column"),
        ({"features": ["bmi", "target"]}, "features: 'target' is the target"),
    ],
)
def test_bad_arguments(bad, message):
    with pytest.raises(ArgumentError, match=f"^{message}"):
        TabularData(**bad).setup("fit")
