import pytest
import torch

from lightning_gradtools.callbacks.hessian_spectrum import overhead
from lightning_gradtools.callbacks.hessian_spectrum.overhead import OverheadBudget


class Clock:
    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


@pytest.mark.parametrize("cost", [0.2, 2.0, 20.0])
@pytest.mark.parametrize("share", [0.02, 0.3])
def test_the_share_of_time_holds_and_is_used(monkeypatch, cost, share):
    clock = Clock()
    monkeypatch.setattr(overhead, "time", clock)
    plan, times = OverheadBudget(share, step=100, batches=1, device=torch.device("cpu")), 0
    for step in range(100, 100 + round(20 * cost / share / 0.05)):
        clock.now += 0.05  # a step
        if plan.due(step):
            clock.now += cost
            plan.charge(cost, step)
            times += 1
            if times > 1 or cost < 60 * 0.05:  # the first one may cost more than the guess
                assert plan.share <= 1.01 * share
    assert times >= 10
    assert plan.share == pytest.approx(times * cost / clock.now)
    assert plan.share > 0.8 * share


def test_the_first_measurement_waits_until_a_guess_of_it_is_affordable(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(overhead, "time", clock)
    plan = OverheadBudget(0.5, step=0, batches=2, device=torch.device("cpu"))
    due = []
    for step in range(200):
        clock.now += 1.0
        due.append(plan.due(step))
    assert 110 <= due.index(True) <= 130  # 120 steps at half of the time
