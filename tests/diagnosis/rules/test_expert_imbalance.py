import math
from dataclasses import replace

import pytest
import torch
from helpers.histories import falling, found, history, layers, serious
from torch import nn

from lightning_gradtools.diagnosis.observation import LayerObservation, RoutingObservation


def routed(load, every=10, steps=120, **settings):
    """A run whose one mixture has these loads, sample by sample."""
    made = history(loss=falling, steps=steps, every=every, **settings)
    made.observations = [
        replace(each, routing=(RoutingObservation("moe", "moe.experts", tuple(load(i))),))
        for i, each in enumerate(made.observations)
    ]
    return made


def imbalance(made):
    (finding,) = [each for (kind, _), each in found(made).items() if kind == "expert_imbalance"]
    return finding


def only(*experts, count=8):
    return [1 / len(experts) if i in experts else 0.0 for i in range(count)]


def test_experts_that_get_nothing():
    finding = imbalance(routed(lambda i: only(0, 1, 2)))
    assert (str(finding.severity), finding.layer) == ("warning", "moe")
    dead, effective, largest = (each.value for each in finding.evidence)
    assert (dead, largest) == (5 / 8, pytest.approx(8 / 3))
    assert effective == pytest.approx(3 / 8)
    assert finding.evidence[0].steps == 71


def test_the_remedies_run_as_they_stand():
    balance, start, _ = imbalance(routed(lambda i: only(0))).remedy
    values = []
    for chosen in (torch.eye(4), torch.eye(4)[[0, 0, 0, 0]]):
        names = {"loss": torch.tensor(0.0), "n_experts": 4, "chosen": chosen.bool(), "probabilities": chosen}
        exec(balance.code, names)
        values.append(names["loss"].item())
    assert values == pytest.approx([0.01, 0.04])  # least where the load is even
    router = nn.Linear(64, 8)
    exec(start.code, {"nn": nn, "router": router})
    assert router.weight.std().item() == pytest.approx(1e-2, rel=0.2)


def test_one_expert_that_gets_most():
    load = [0.86] + [0.02] * 7
    finding = imbalance(routed(lambda i: load))
    assert str(finding.severity) == "warning"
    assert finding.evidence[0].value == 0
    entropy = -sum(share * math.log(share) for share in load)
    assert finding.evidence[1].value == pytest.approx(math.exp(entropy) / 8)


def test_a_single_one_of_many_is_worth_an_info():
    assert str(imbalance(routed(lambda i: only(*range(7)))).severity) == "info"


@pytest.mark.parametrize(
    "load",
    [
        lambda i: only(*range(8)),
        lambda i: only(i % 8),
        lambda i: only(2 * i % 8, (2 * i + 1) % 8),
        lambda i: [0.3, 0.2, 0.15, 0.1, 0.1, 0.07, 0.05, 0.03],
        lambda i: only(0) if i < 5 else only(*range(8)),
    ],
    ids=["equal", "in turns", "in turns of two", "specialists", "balanced since"],
)
def test_loads_that_differ_are_healthy(load):
    assert serious(routed(load)) == set()


def test_the_first_choices_are_those_of_chance():
    assert serious(routed(lambda i: only(0), every=1, steps=20)) == set()
    assert serious(routed(lambda i: only(0), every=1, steps=50)) == {("expert_imbalance", "moe")}


def experts(step):
    """Layers of a mixture of which one expert only is ever called."""
    idle = [LayerObservation(f"moe.experts.{i}.0", None, None, ran=False) for i in range(1, 8)]
    called = LayerObservation("moe.experts.0.0", None, 1.0, gradient=1.0, weight=1.0, update=1e-3)
    return (*layers([1.0] * 2, update=1e-3), replace(called, backward=1.0, signal=1.0), *idle)


def test_a_router_that_no_gradient_reaches_is_something_else():
    def seen(gradient):
        router = LayerObservation("moe.router", 1.0, gradient, gradient=gradient, weight=1.0, update=gradient * 1e-3)
        return lambda step: (*layers([1.0] * 2), router)

    assert serious(routed(lambda i: only(0), seen=seen(0.0))) == {("no_gradient", "moe")}
    assert serious(routed(lambda i: only(0), seen=seen(1.0))) == {("expert_imbalance", "moe")}


def test_experts_that_no_gradient_reaches_are_one_finding_and_not_many():
    assert serious(routed(lambda i: only(0), seen=experts)) == {("expert_imbalance", "moe")}
    without = routed(lambda i: only(0), seen=experts)
    without.observations = [replace(each, routing=()) for each in without.observations]
    assert len(serious(without)) > 1
