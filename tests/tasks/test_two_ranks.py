from itertools import chain

import pytest
from helpers import task_cases
from helpers.launcher import launch

from lightning_gradtools.tasks import TabularData


@pytest.fixture(scope="module")
def ranks():
    return launch(task_cases.two_ranks)


def test_an_epoch_shows_each_sample_to_one_rank_once(ranks):
    everything = sorted(TabularData().splits.train.inputs.sum(1).tolist())
    epochs = []
    for epoch in range(2):
        batches = [batch for rank in ranks for batch in rank["tabular"]["seen"][7 * epoch : 7 * epoch + 7]]
        assert [len(batch) for batch in batches] == [19] * 14
        assert sorted(chain.from_iterable(batches)) == pytest.approx(everything)
        epochs.append(batches)
    assert epochs[0] != epochs[1]


def test_metrics_are_those_of_the_whole_set_on_every_rank(ranks):
    for rank in ranks:
        logged, expected = rank["tabular"]["logged"], rank["tabular"]["expected"]
        assert {key: logged[key] for key in expected} == pytest.approx(expected, rel=1e-4)


def test_the_batch_must_fit_each_ranks_share(ranks):
    for rank in ranks:
        assert rank["too_large"] == (
            "batch_size=630: must be at most 629, the size of the training set on each of 2 ranks"
        )


def test_fsdp2_shards_every_parameter_and_trains_as_ddp_does(ranks):
    for rank in ranks:
        assert rank["ddp"]["sharded"] == []
        assert rank["fsdp2"]["sharded"] == rank["fsdp2"]["names"] == rank["ddp"]["names"]
        assert rank["fsdp2"]["logged"] == pytest.approx(rank["ddp"]["logged"], rel=1e-3)
        assert rank["ddp"]["logged"]["test/loss"] == pytest.approx(ranks[0]["ddp"]["logged"]["test/loss"])
