"""The baseline loss, against scipy-free oracles: the best constant found by descent over constants."""

import pytest
import torch
import torch.nn.functional as F

from lightning_gradtools.activations.baseline_loss import KNOWN_LOSSES, baseline_loss

torch.manual_seed(0)
LABELS = torch.randint(5, (200,)) // 2
NUMBERS = torch.randn(200, 3) * torch.tensor([1.0, 5.0, 0.1]) + 2
BITS = (torch.rand(200, 4) < torch.tensor([0.1, 0.5, 0.9, 0.3])).float()


def best_constant(loss, shape):
    constant = torch.zeros(shape, requires_grad=True)
    optimizer = torch.optim.LBFGS([constant], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = loss(constant.expand(200, *shape))
        value.backward()
        return value

    optimizer.step(closure)
    return loss(constant.expand(200, *shape)).item()


@pytest.mark.parametrize(
    ("name", "target", "shape"),
    [
        ("cross_entropy", LABELS, (3,)),
        ("mse_loss", NUMBERS, (3,)),
        ("binary_cross_entropy_with_logits", BITS, (4,)),
    ],
)
def test_moments_over_batches_give_the_loss_of_the_best_constant(name, target, shape):
    function = getattr(F, name)
    parts = []
    for chunk in target.split(30):
        prediction = torch.randn(len(chunk), *shape)
        parts.append(KNOWN_LOSSES[name]((prediction, chunk), {}, function(prediction, chunk)))
    sums = [sum(getattr(part, what) for part in parts) for what in ("count", "first", "second")]
    assert baseline_loss(parts[0].kind, *sums).item() == pytest.approx(
        best_constant(lambda constant: function(constant, target), shape), rel=1e-4
    )


@pytest.mark.parametrize(
    ("name", "settings"), [("l1_loss", {}), ("smooth_l1_loss", {"beta": 0.3}), ("huber_loss", {"delta": 2.0})]
)
def test_the_median_of_each_batch_is_nearly_the_best_constant_for_distances(name, settings):
    function = getattr(F, name)
    parts = [KNOWN_LOSSES[name]((t + 1, t), settings, function(t + 1, t, **settings)) for t in NUMBERS.split(30)]
    sums = [sum(getattr(part, what) for part in parts) for what in ("count", "first", "second")]
    best = best_constant(lambda constant: function(constant, NUMBERS, **settings), (3,))
    assert baseline_loss(parts[0].kind, *sums).item() == pytest.approx(best, rel=0.05)
    assert parts[0].loss.item() == pytest.approx(function(NUMBERS + 1, NUMBERS, **settings).item(), rel=1e-5)


def test_ignored_targets_do_not_count():
    target = torch.tensor([0, 1, -100, 1])
    scores = torch.randn(4, 2)
    sample = KNOWN_LOSSES["cross_entropy"]((scores, target), {}, F.cross_entropy(scores, target))
    assert sample.count.item() == 3
    assert sample.first.tolist() == [1, 2]


@pytest.mark.parametrize("settings", [{"weight": torch.ones(2)}, {"label_smoothing": 0.1}, {"reduction": "sum"}])
def test_what_has_another_best_constant_is_left_alone(settings):
    scores, target = torch.randn(4, 2), torch.tensor([0, 1, 0, 1])
    assert (
        KNOWN_LOSSES["cross_entropy"]((scores, target), settings, F.cross_entropy(scores, target, **settings)) is None
    )
