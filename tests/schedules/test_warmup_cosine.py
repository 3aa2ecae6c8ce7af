import io
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingLR, CosineAnnealingWarmRestarts, LinearLR, SequentialLR

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.schedules import WarmupCosine, WarmupCosineLR


def optimizer_with(*learning_rates: float, lr: float = 0.1) -> torch.optim.Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (learning_rates or (lr,))]
    return torch.optim.SGD(groups, lr=lr)


@st.composite
def schedules(draw: st.DrawFn, max_steps: int = 10**6, **fixed) -> WarmupCosine:
    total = draw(st.integers(1, max_steps))
    warmup = draw(st.integers(0, total))
    arguments = {
        "total_steps": total,
        "warmup_steps": warmup,
        "min_lr_ratio": draw(st.floats(0, 1)),
        "warmup_start_factor": draw(st.none() | st.floats(0, 1)),
        "decay": draw(st.sampled_from(["cosine", "linear", "1-sqrt"])),
        "decay_steps": draw(st.none() | st.integers(0, total - warmup)),
        "num_cycles": draw(st.integers(1, 5)),
    }
    return WarmupCosine(**{**arguments, **fixed})


def reference(s: WarmupCosine, k: int) -> float:
    """The formula read off the literature, in exact rationals up to the last cosine or root."""
    if k >= s.total_steps:
        return s.min_lr_ratio
    if k < s.warmup_steps:
        start = Fraction(1, s.warmup_steps + 1) if s.warmup_start_factor is None else Fraction(s.warmup_start_factor)
        return float(start + (1 - start) * Fraction(k, s.warmup_steps))
    length = s.total_steps - s.warmup_steps if s.decay_steps is None else s.decay_steps
    into = k - (s.total_steps - length)
    if into < 0:
        return 1.0
    cycles = Fraction(into, length) * s.num_cycles
    p = float(cycles - math.floor(cycles))
    # cos^2(x/2) = (1 + cos x) / 2, so that the reference does not share the expression it checks.
    shape = {"cosine": math.cos(math.pi * p / 2) ** 2, "linear": 1 - p, "1-sqrt": 1 - p**0.5}[s.decay]
    return s.min_lr_ratio + (1 - s.min_lr_ratio) * shape


@pytest.mark.parametrize("draws", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_equals_the_formula(draws):
    @settings(max_examples=draws, deadline=None)
    @given(schedules(), st.floats(0, 1.2))
    def check(schedule, where):
        step = int(where * schedule.total_steps)
        assert schedule.factor(step) == pytest.approx(reference(schedule, step), rel=0, abs=1e-12)

    check()


@settings(max_examples=100, deadline=None)
@given(schedules(max_steps=40))
def test_stepping_reading_off_and_jumping_agree(schedule):
    stepped, jumped = optimizer_with(0.1, 0.003), optimizer_with(0.1, 0.003)
    by_steps, by_jump = WarmupCosineLR(stepped, schedule), WarmupCosineLR(jumped, schedule)
    for step in range(schedule.total_steps + 5):
        jumped.step()
        with pytest.warns(UserWarning, match="epoch parameter"):
            by_jump.step(step)
        rates = [group["lr"] for group in stepped.param_groups]
        assert rates == [group["lr"] for group in jumped.param_groups] == by_steps.get_last_lr()
        assert rates == pytest.approx([0.1 * schedule.factor(step), 0.003 * schedule.factor(step)], abs=1e-12)
        stepped.step()
        by_steps.step()


@settings(max_examples=200, deadline=None)
@given(schedules(max_steps=200, num_cycles=1))
def test_climbs_then_holds_then_falls_and_never_climbs_back(schedule):
    factors = [schedule.factor(k) for k in range(schedule.total_steps + 20)]
    top = schedule.warmup_steps
    assert factors[: top + 1] == sorted(factors[:top]) + factors[top : top + 1]
    assert factors[top:] == sorted(factors[top:], reverse=True)
    assert set(factors[schedule.total_steps :]) == {schedule.min_lr_ratio}
    assert min(factors[top:]) >= schedule.min_lr_ratio
    if top < schedule.total_steps and schedule.decay_steps != 0:
        assert factors[top] == max(factors) == 1.0


@settings(max_examples=200, deadline=None)
@given(schedules(max_steps=200, warmup_start_factor=None, min_lr_ratio=0.01))
def test_no_step_of_the_run_is_zero_unless_asked(schedule):
    assert all(schedule.factor(k) > 0 for k in range(schedule.total_steps))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        # warm-up 0: the first step is the peak
        (WarmupCosine(4), [1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2, 0, 0, 0]),
        # warm-up = total: only the climb, then the floor
        (WarmupCosine(4, warmup_steps=4, min_lr_ratio=0.1), [0.2, 0.4, 0.6, 0.8, 0.1, 0.1]),
        # a first step of zero, because asked
        (WarmupCosine(4, warmup_steps=2, warmup_start_factor=0.0), [0, 0.5, 1, 0.5, 0, 0]),
        # warm-up-stable-decay
        (
            WarmupCosine(8, warmup_steps=1, decay_steps=4, decay="linear"),
            [0.5, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0],
        ),
        (WarmupCosine(6, decay_steps=4, decay="1-sqrt"), [1, 1, 1, 0.5, 1 - 0.5**0.5, 1 - 0.75**0.5, 0, 0]),
        # a hold to the end, then the floor
        (WarmupCosine(3, decay_steps=0), [1, 1, 1, 0]),
        # restarts; and where the parts are not whole, each starts at the first step past its boundary
        (WarmupCosine(4, decay="linear", num_cycles=2), [1, 0.5, 1, 0.5, 0, 0]),
        (WarmupCosine(3, decay="linear", num_cycles=2), [1, 1 / 3, 2 / 3, 0]),
        (WarmupCosine(1), [1, 0, 0]),
    ],
)
def test_edges_by_hand(schedule, expected):
    assert [schedule.factor(k) for k in range(len(expected))] == pytest.approx(expected, abs=1e-15)


def test_equals_torch_where_torch_has_the_same_schedule():
    warmup, total, lr, floor = 10, 50, 0.3, 0.03
    ours, theirs = optimizer_with(lr), optimizer_with(lr)
    schedule = WarmupCosine(total, warmup_steps=warmup, min_lr_ratio=floor / lr, warmup_start_factor=0.2, num_cycles=1)
    scheduler = WarmupCosineLR(ours, schedule)
    climb = LinearLR(theirs, start_factor=0.2, total_iters=warmup)
    fall = CosineAnnealingLR(theirs, T_max=total - warmup, eta_min=floor)
    oracle = SequentialLR(theirs, [climb, fall], milestones=[warmup])
    for _ in range(total):
        assert ours.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-12)
        for optimizer, each in ((ours, scheduler), (theirs, oracle)):
            optimizer.step()
            each.step()


def test_every_restart_comes_on_its_step():
    for cycles in range(2, 50):
        schedule = WarmupCosine(7 * cycles, decay="linear", num_cycles=cycles)
        assert [schedule.factor(7 * cycle) for cycle in range(cycles)] == [1.0] * cycles, cycles


def test_restarts_equal_torchs():
    ours, theirs = optimizer_with(), optimizer_with()
    scheduler = WarmupCosineLR(ours, WarmupCosine(30, num_cycles=3))
    oracle = CosineAnnealingWarmRestarts(theirs, T_0=10)
    for _ in range(30):
        assert ours.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"], abs=1e-12)
        for optimizer, each in ((ours, scheduler), (theirs, oracle)):
            optimizer.step()
            each.step()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"total_steps": 0}, r"^total_steps=0: must be an integer >= 1"),
        ({"total_steps": 10.0}, r"^total_steps=10\.0: must be an integer"),
        ({"warmup_steps": -1}, r"^warmup_steps=-1"),
        ({"warmup_steps": 11}, r"^warmup_steps=11: must be at most total_steps=10$"),
        ({"min_lr_ratio": 1.1}, r"^min_lr_ratio=1\.1"),
        ({"warmup_start_factor": -0.1}, r"^warmup_start_factor=-0\.1"),
        ({"decay": "cosin"}, r"^decay='cosin': .*did you mean 'cosine'"),
        ({"warmup_steps": 4, "decay_steps": 7}, r"^decay_steps=7: .* = 6$"),
        ({"num_cycles": 0}, r"^num_cycles=0"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        WarmupCosine(**{"total_steps": 10, **arguments})


def test_the_state_round_trips_through_a_weights_only_file():
    schedule = WarmupCosine(20, warmup_steps=5, min_lr_ratio=0.1)
    optimizer = optimizer_with(0.1, 0.02)
    scheduler = WarmupCosineLR(optimizer, schedule)
    for _ in range(9):
        optimizer.step()
        scheduler.step()
    file = io.BytesIO()
    torch.save([optimizer.state_dict(), scheduler.state_dict()], file)
    file.seek(0)
    optimizer_state, state = torch.load(file, weights_only=True)

    resumed = optimizer_with(0.1, 0.02)
    continued = WarmupCosineLR(resumed, schedule)
    resumed.load_state_dict(optimizer_state)
    continued.load_state_dict(state)
    for step in range(9, 25):
        for ours, before, base in zip(resumed.param_groups, optimizer.param_groups, (0.1, 0.02), strict=True):
            assert ours["lr"] == before["lr"] == base * schedule.factor(step)
        for each, its in ((optimizer, scheduler), (resumed, continued)):
            each.step()
            its.step()


def test_a_state_continues_on_the_curve_of_the_arguments():
    optimizer = optimizer_with(0.1)
    scheduler = WarmupCosineLR(optimizer, WarmupCosine(10))
    for _ in range(8):
        optimizer.step()
        scheduler.step()
    resumed = optimizer_with(0.1)
    longer = WarmupCosineLR(resumed, WarmupCosine(20))
    longer.load_state_dict(scheduler.state_dict())
    assert resumed.param_groups[0]["lr"] == longer.get_last_lr()[0] == 0.1 * WarmupCosine(20).factor(8)
    assert longer.schedule.total_steps == 20


def test_the_state_of_another_scheduler_is_refused():
    scheduler = WarmupCosineLR(optimizer_with(0.1), WarmupCosine(10))
    with pytest.raises(ArgumentError, match="of another scheduler"):
        scheduler.load_state_dict(CosineAnnealingLR(optimizer_with(0.1), T_max=10).state_dict())
    with pytest.raises(ArgumentError, match="has 2 parameter groups"):
        scheduler.load_state_dict(WarmupCosineLR(optimizer_with(0.1, 0.2), WarmupCosine(10)).state_dict())


def test_a_tensor_learning_rate_stays_the_same_tensor():
    rate = torch.tensor(0.5)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    scheduler = WarmupCosineLR(optimizer, WarmupCosine(4, decay="linear"))
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == 0.375
