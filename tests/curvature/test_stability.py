"""Bounds of learning rate × sharpness against the iteration itself on a quadratic, and only where they are known."""

import pytest
import torch

from lightning_gradtools.curvature.stability import stability_bound


def diverges(optimizer, weight, curvature):
    """Run it on ½ λ w² and tell whether w grows."""
    with torch.no_grad():
        weight.fill_(1.0)
    for _ in range(3000):
        weight.grad = curvature * weight.detach()
        optimizer.step()
        if weight.detach().abs() > 1e6:
            return True
    return False


@pytest.mark.parametrize(
    "settings", [{}, {"momentum": 0.9}, {"momentum": 0.5, "nesterov": True}, {"momentum": 0.8, "dampening": 0.5}]
)
def test_gradient_descent_is_stable_below_its_bound_and_not_above(settings):
    for share, expected in ((0.97, False), (1.03, True)):
        weight = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
        optimizer = torch.optim.SGD([weight], lr=0.1, **settings)
        bound = stability_bound(optimizer)
        assert bound.learning_rate == 0.1
        assert not bound.preconditioned
        assert diverges(optimizer, weight, share * bound.bound / 0.1) == expected


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_adam_has_the_bound_of_its_first_moment(kind):
    weight = torch.nn.Parameter(torch.ones(1))
    bound = stability_bound(kind([{"params": [weight], "lr": 0.1}], lr=0.3, betas=(0.8, 0.99)))
    assert bound.bound == pytest.approx((2 + 1.6) / 0.2)
    assert bound.learning_rate == 0.1
    assert bound.preconditioned


class OwnSettings(torch.optim.SGD):
    def __init__(self, parameters):
        super().__init__(parameters, lr=0.1, momentum=0.5)


class OwnAdam(torch.optim.Adam):
    pass


def test_a_step_that_is_inherited_has_the_bound_it_has_there():
    weight = torch.nn.Parameter(torch.ones(1))
    for kind, share in ((OwnSettings, 3.0), (OwnAdam, 38.0)):
        for _ in range(2):  # torch wraps the step of a class at its first instance
            assert stability_bound(kind([weight])).bound == pytest.approx(share)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (torch.optim.SGD, {"maximize": True}),
        (torch.optim.Adam, {"maximize": True}),
        (torch.optim.SGD, {"momentum": 0.5, "dampening": 1.0}),
    ],
)
def test_no_bound_is_known_where_the_step_does_not_follow_the_gradient_down(kind, settings):
    assert stability_bound(kind([torch.nn.Parameter(torch.ones(1))], lr=0.1, **settings)) is None


def groups(*settings, kind=torch.optim.SGD):
    made = [{"params": [torch.nn.Parameter(torch.ones(1, dtype=torch.float64))], **each} for each in settings]
    return kind(made, lr=0.1)


@pytest.mark.parametrize("turned", [False, True])
def test_of_several_groups_the_one_that_diverges_first_counts(turned):
    """At one curvature for all, by the iteration itself; the larger rate is further from its bound with momentum."""
    settings = [{"lr": 0.1, "momentum": 0.9}, {"lr": 0.09}][:: -1 if turned else 1]
    bound = stability_bound(groups(*settings))
    assert (bound.learning_rate, bound.bound) == (0.09, 2.0)
    for share, expected in ((0.97, False), (1.03, True)):
        optimizer, curvature = groups(*settings), share * bound.bound / bound.learning_rate
        grew = [diverges(optimizer, group["params"][0], curvature) for group in optimizer.param_groups]
        assert any(grew) == expected


def test_adams_groups_have_bounds_of_their_own():
    bound = stability_bound(groups({"lr": 0.3, "betas": (0.9, 0.99)}, {"lr": 0.1, "betas": (0.0, 0.99)}, kind=OwnAdam))
    assert (bound.learning_rate, bound.bound) == (0.1, 2.0)


def test_groups_without_anything_trainable_do_not_count():
    optimizer = groups({"lr": 5.0}, {"lr": 0.2}, {"lr": 5.0, "maximize": True})
    for frozen in (0, 2):
        optimizer.param_groups[frozen]["params"][0].requires_grad_(False)
    assert stability_bound(optimizer).learning_rate == 0.2
    optimizer.param_groups[1]["params"][0].requires_grad_(False)
    assert stability_bound(optimizer) is None


def test_one_group_without_a_bound_leaves_none_for_all():
    assert stability_bound(groups({"lr": 0.2}, {"maximize": True})) is None
    assert stability_bound(groups({"lr": 0.2}, {"momentum": 0.5, "dampening": 1.0})) is None


class AdamWithAnotherStep(torch.optim.Adam):
    def step(self, closure=None):
        return None


class Nothing(torch.optim.SGD):
    def step(self, closure=None):
        return None


@pytest.mark.parametrize(
    "kind",
    [
        AdamWithAnotherStep,
        Nothing,
        torch.optim.RAdam,
        torch.optim.NAdam,
        torch.optim.Adamax,
        torch.optim.SparseAdam,
        torch.optim.Adagrad,
        torch.optim.RMSprop,
        torch.optim.Muon,
    ],
)
def test_an_optimizer_with_another_step_has_no_known_bound(kind):
    assert stability_bound(kind([torch.nn.Parameter(torch.ones(2, 2))], lr=0.1)) is None
