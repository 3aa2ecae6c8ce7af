import pytest
import torch
from torch.utils.data import DistributedSampler

from lightning_gradtools.tasks.data.loading import EpochSampler, TensorPairs, batch_loader


@pytest.fixture
def dataset():
    return TensorPairs(torch.arange(23.0).view(23, 1), torch.arange(23))


def test_a_batch_is_the_rows_in_the_order_asked(dataset):
    inputs, targets = dataset.__getitems__([4, 2, 2])
    assert inputs.tolist() == [[4.0], [2.0], [2.0]]
    assert targets.tolist() == [4, 2, 2]
    assert dataset[7][1].item() == 7


def test_the_order_is_a_function_of_seed_and_epoch(dataset):
    sampler = EpochSampler(dataset, seed=3)
    first = list(sampler)
    assert sorted(first) == list(range(23))
    assert list(sampler) == first
    sampler.set_epoch(5)
    sixth = list(sampler)
    assert sixth != first
    resumed = EpochSampler(dataset, seed=3)
    resumed.set_epoch(5)
    assert list(resumed) == sixth
    assert list(EpochSampler(dataset, seed=4)) != first


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_batches_are_whole_and_in_order(dataset, workers):
    targets = [targets.tolist() for _, targets in batch_loader(dataset, 10, num_workers=workers)]
    assert targets == [list(range(10)), list(range(10, 20)), [20, 21, 22]]


def test_training_batches_are_shuffled_and_of_one_size(dataset):
    batches = [targets.tolist() for _, targets in batch_loader(dataset, 10, shuffle_seed=0)]
    assert [len(batch) for batch in batches] == [10, 10]
    assert len({*batches[0], *batches[1]}) == 20
    assert batches[0] != sorted(batches[0])


def test_ranks_share_the_samples_out(dataset):
    seen = [
        index for rank in range(2) for index in DistributedSampler(dataset, num_replicas=2, rank=rank, drop_last=True)
    ]
    assert len(set(seen)) == len(seen) == 22
