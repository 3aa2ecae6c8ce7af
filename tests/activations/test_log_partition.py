import torch
import torch.nn.functional as F
from torch import nn

from lightning_gradtools.activations import StepTap
from lightning_gradtools.activations.log_partition import log_partition


def test_it_is_the_mean_of_the_size_of_log_z_and_of_the_largest_logit_above_its_row():
    logits = torch.tensor([[0.0, 0.0, 3.0], [-100.0, -100.0, -100.0]])
    found = log_partition((logits,), {})
    expected = (logits.exp().sum(1).log()[0].abs() + 100 - torch.log(torch.tensor(3.0))) / 2
    torch.testing.assert_close(found, torch.stack([expected, torch.tensor(1.0)]))


def test_classes_are_the_second_dimension_and_few_rows_are_looked_at():
    torch.manual_seed(0)
    logits = torch.randn(500, 5, 40)
    few = log_partition((), {"input": logits})
    whole = logits.logsumexp(1).abs().mean()
    torch.testing.assert_close(few[0], whole, rtol=0.05, atol=0.0)
    assert log_partition((torch.randn(5),), {}) is None


def test_only_cross_entropies_are_asked():
    net = nn.Linear(4, 3)
    y = torch.zeros(6, dtype=torch.long)
    for loss, count in ((F.cross_entropy, 1), (lambda x, y: F.nll_loss(x.log_softmax(1), y), 0)):
        tap = StepTap({"net": net})
        with tap:
            loss(net(torch.randn(6, 4)), y)
        assert len(tap.log_partitions) == count
