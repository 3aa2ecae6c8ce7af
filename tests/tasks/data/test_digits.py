import torch
from sklearn.datasets import load_digits

from lightning_gradtools.tasks import DigitsData


def rows(split):
    return {tuple(row) for row in split.inputs.flatten(1).tolist()}


def test_the_splits_hold_every_image_once():
    splits = DigitsData(standardize=False).splits
    assert [len(split) for split in splits] == [1259, 269, 269]
    together = [rows(split) for split in splits]
    everything = {tuple(row) for row in (load_digits().data / 16).tolist()}
    assert set.union(*together) == everything
    assert sum(map(len, together)) == len(everything)  # no image is in two splits


def test_the_seed_alone_fixes_the_split():
    one, two, other = DigitsData(seed=1).splits, DigitsData(seed=1).splits, DigitsData(seed=2).splits
    assert torch.equal(one.test.inputs, two.test.inputs)
    assert torch.equal(one.test.targets, two.test.targets)
    assert not torch.equal(one.test.inputs, other.test.inputs)


def test_images_keep_their_labels():
    original = {tuple(row): label for row, label in zip(*load_digits(return_X_y=True), strict=True)}
    split = DigitsData(standardize=False, flat=True).splits.val
    for image, label in zip((split.inputs * 16).tolist(), split.targets.tolist(), strict=True):
        assert original[tuple(image)] == label


def test_standardized_by_the_training_images():
    splits = DigitsData().splits
    assert abs(splits.train.inputs.mean().item()) < 1e-5
    assert abs(splits.train.inputs.std().item() - 1) < 1e-5
    assert abs(splits.val.inputs.mean().item()) > 1e-5  # its own statistics were not used
    plain = DigitsData(standardize=False).splits.train.inputs
    assert plain.min().item() == 0
    assert plain.max().item() == 1


def test_shapes():
    for flat, shape in ((False, (1, 8, 8)), (True, (64,))):
        data = DigitsData(batch_size=10, flat=flat)
        inputs, targets = next(iter(data.train_dataloader()))
        assert inputs.shape == (10, *shape)
        assert data.input_shape == shape
        assert targets.shape == (10,)
        assert targets.dtype == torch.int64
    assert data.num_features == 64
    assert data.num_classes == 10
