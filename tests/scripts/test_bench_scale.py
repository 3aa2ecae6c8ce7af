"""The script that counts collectives: its counter against gloo's records, what clipping says today, costs."""

import sys
from importlib import import_module
from pathlib import Path

import pytest
from helpers import scale_cases
from helpers.launcher import launch

SCRIPTS = Path(__file__).parents[2] / "scripts"

# Calls that clipping adds to a step, of a model of 14 tensors. Fewer are better; none more may come.
CALLS_A_STEP = {
    "DDP": {"max_norm": 0, "clip_value": 0, "adaptive": 0, "zscore": 0},
    "FSDP2": {"max_norm": 1, "clip_value": 1, "adaptive": 2, "zscore": 1},
    "FSDP2 x TP": {"max_norm": 3, "clip_value": 3, "adaptive": 5, "zscore": 3},
}


@pytest.fixture(scope="module")
def scale():
    sys.path.insert(0, str(SCRIPTS))
    yield import_module("bench_scale")
    sys.path.remove(str(SCRIPTS))


@pytest.mark.parametrize(("work", "ranks"), [(scale_cases.collectives_of_two, 2), (scale_cases.collectives_of_four, 4)])
def test_every_collective_is_counted_once_with_its_bytes(scale, work, ranks):
    for pieces, recorded in launch(work, world_size=ranks):
        assert {piece.name: piece.counted for piece in pieces} == {piece.name: piece.expected for piece in pieces}
        assert sum(calls for piece in pieces for calls, _ in piece.counted.values()) == recorded


@pytest.mark.parametrize("strategy", ["DDP", "FSDP2", pytest.param("FSDP2 x TP", marks=pytest.mark.slow)])
def test_clipping_makes_as_many_calls_a_step_as_it_did(scale, strategy):
    found = launch(scale_cases.clipped_steps, strategy, world_size=scale.STRATEGIES[strategy].ranks)
    for counts in found:
        calls = {name: sum(traffic.calls for traffic in each.values()) for name, each in counts.items()}
        assert calls == {f"GradientClipping({name})": number for name, number in CALLS_A_STEP[strategy].items()}


def _run(scale, **calls):
    return scale.Run({phase: {scale.Call("all_reduce"): scale.Traffic(*each)} for phase, each in calls.items()})


def test_what_a_run_has_without_a_callback_is_none_of_its(scale):
    everywhere = ["start", *map(str, range(scale.STEPS)), "end"]
    bare = _run(scale, **dict.fromkeys(everywhere, (5, 100)))
    # 1 call more on each step, 2 on a logged one, 3 where that is flushed, 4 at the end
    more = dict.fromkeys(everywhere[1:-1], (6, 110))
    logged = {"3": (8, 130), "7": (11, 160), "11": (8, 130)}
    run = _run(scale, **{**more, **logged, "start": (5, 100), "end": (9, 140)})
    monitor = next(row for row in scale.ROWS if row.flushes)
    added = scale.added(monitor, run, bare)
    numbers = [
        [tuple(each) for each in part.values()] for part in (added.ordinary, added.event, added.flush, added.outside)
    ]
    assert numbers == [[(1, 10)], [(2, 20)], [(3, 30)], [(4, 40)]]
    nothing = scale.added(monitor, bare, bare)
    assert [nothing.ordinary, nothing.event, nothing.flush, nothing.outside] == [{}, {}, {}, {}]


def test_ranks_that_make_different_calls_are_refused(scale):
    alike, more = _run(scale, end=(1, 8)), _run(scale, end=(1, 12))
    assert scale.over_ranks([alike, more]).counts == more.counts
    with pytest.raises(RuntimeError, match="phase 'end'"):
        scale.over_ranks([alike, _run(scale, end=(2, 8))])


def test_counts_are_extrapolated_over_nine_powers_of_ten(scale):
    call = scale.Call("all_reduce")

    def counts(shape):
        return {
            call: scale.Traffic(2 + 3 * shape.tensors, 8 + 5 * shape.tensors + 7 * shape.units + 4 * shape.parameters)
        }

    samples = [(shape, counts(shape)) for shape in scale.SAMPLED_SHAPES]
    for model in scale.MODELS:
        found, expected = scale.extrapolated(samples, model.shape)[call], counts(model.shape)[call]
        assert tuple(found) == pytest.approx(tuple(expected), rel=1e-6)


def test_a_shape_says_how_large_its_model_is(scale):
    for shape in scale.SAMPLED_SHAPES:
        parameters = list(scale.GPT(shape).parameters())
        assert (len(parameters), sum(each.numel() for each in parameters)) == (shape.tensors, shape.parameters)


def test_latency_is_nccls_own_estimate(scale):
    # NCCL printed 25.214764 us for 128 bytes on two nodes of 8 ranks, some of it for the bytes: NVIDIA/nccl issue 1453.
    assert scale.latency("all_reduce", scale.Group(16, 2)) == pytest.approx(25.214764e-6, rel=1e-3)
    assert scale.latency("barrier", scale.Group(8, 1)) == pytest.approx((6.8 + 2 * 7 * 0.6) * 1e-6)
    assert scale.latency("all_gather", scale.Group(8, 1)) == pytest.approx((6.6 + 7 * 0.6) * 1e-6)


def test_large_messages_take_the_time_of_their_bandwidth(scale):
    counts = {scale.Call("all_reduce"): scale.Traffic(1, 1e12)}
    # A ring sends each byte twice, but for a rank's own share, at 50 GB/s between nodes.
    assert scale.seconds(counts, "DDP", 64, 1.0) == pytest.approx(2 * 63 / 64 * 1e12 / 50e9, rel=1e-4)
    within = {scale.Call("all_reduce", "tensor"): scale.Traffic(1, 1e12)}
    assert scale.seconds(within, "FSDP2 x TP", 64, 1.0) == pytest.approx(2 * 7 / 8 * 1e12 / 450e9, rel=1e-4)
    alone = {scale.Call("all_reduce", "data"): scale.Traffic(1, 1e12)}
    assert scale.seconds(alone, "FSDP2 x TP", 8, 1.0) == 0


def test_objects_are_as_many_as_ranks(scale):
    def cost(kind, ranks):
        return scale.seconds({scale.Call(kind): scale.Traffic(1, 2e12)}, "FSDP2", ranks, 1.0)

    assert cost("object all_gather", 64) == pytest.approx(32 * cost("all_gather", 64), rel=1e-3)
    assert cost("object broadcast", 64) == pytest.approx(cost("broadcast", 64), rel=1e-3)
