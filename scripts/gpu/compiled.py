"""Our callbacks beside ``torch.compile`` with CUDA graphs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from lightning.pytorch import Callback
from torch import Tensor

from gpu.check import Check, Outcome, Setting
from gpu.runs import Regression, differing, failures, farthest, rows_of_numbers, train, weights
from lightning_gradtools.callbacks import GradientClipping, GradientMonitor, PathologyDetector

STEPS = 40
Made = Callable[[], list[Callback]]


def _observers() -> list[Callback]:
    # What clips nothing multiplies by 1 at most, which changes no bit.
    return [GradientMonitor(log_every_n_steps=3, cosine=True, update_ratio=True), GradientClipping(1e9)]


def _detector() -> list[Callback]:
    return [PathologyDetector(5, table=False)]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a compiled run came to: its weights, and how many CUDA graphs it launched; on a CPU there are none."""

    weights: dict[str, Tensor]
    launches: int


@contextmanager
def counted_replays() -> Iterator[list[None]]:
    """Give a list that has an entry for each CUDA graph that is launched meanwhile."""
    replays: list[None] = []
    replay = torch.cuda.CUDAGraph.replay

    def counted(graph: torch.cuda.CUDAGraph) -> None:
        replays.append(None)
        replay(graph)

    with patch.object(torch.cuda.CUDAGraph, "replay", counted):
        yield replays


def compiled_run(whole: bool, callbacks: Sequence[Callback], setting: Setting) -> Run:
    """Train a compiled network, or with ``whole`` a compiled module.

    On a CPU the compiler makes no code, which would take it longer than all other checks, but traces all the same.
    """
    torch.compiler.reset()
    module = Regression()
    options: dict[str, Any] = {"mode": "reduce-overhead"} if setting.device == "cuda" else {"backend": "aot_eager"}
    trained: Any = module
    if whole:
        trained = torch.compile(module, **options)
    else:
        module.net.compile(**options)
    with counted_replays() as replays:
        train(trained, callbacks, rows_of_numbers(STEPS), setting)
    torch.compiler.reset()
    return Run(weights=weights(module), launches=len(replays))


def identical(whole: bool, setting: Setting) -> Outcome:
    """Compare the weights of a run with observers, bit for bit, with those of one without."""
    callbacks = _observers()
    bare, watched = compiled_run(whole, [], setting), compiled_run(whole, callbacks, setting)
    apart = differing(bare.weights, watched.weights)
    monitor = callbacks[0]
    assert isinstance(monitor, GradientMonitor)
    problems = failures(callbacks)
    graphs = _graphs(bare, watched, setting)
    logged = len(monitor.history)
    return Outcome(
        measured=f"{apart} weight tensors differ, {logged} logged{graphs}" + "".join(f"; {x}" for x in problems),
        ok=apart == 0
        and logged == STEPS // 3
        and not problems
        and (setting.device != "cuda" or watched.launches == bare.launches > 0),
        figures={"differing": apart, "logged": logged, "graph_launches": watched.launches},
    )


def detector(whole: bool, setting: Setting) -> Outcome:
    """Compare the weights of a run beside the detector, whose sampled steps run uncompiled, with those without it."""
    callbacks = _detector()
    bare, watched = compiled_run(whole, [], setting), compiled_run(whole, callbacks, setting)
    apart = farthest(bare.weights, watched.weights)
    watching = callbacks[0]
    assert isinstance(watching, PathologyDetector)
    samples = watching.history.observations
    layers = min((len(sample.layers) for sample in samples), default=0)
    problems = failures(callbacks)
    found = f"apart by {apart:.0e}, {len(samples)} samples of {layers} layers{_graphs(bare, watched, setting)}"
    return Outcome(
        measured=found + "".join(f"; {x}" for x in problems),
        ok=apart < 1e-3 and layers == 3 and not problems and (setting.device != "cuda" or watched.launches > 0),
        figures={"apart": apart, "samples": len(samples), "graph_launches": watched.launches},
    )


def _graphs(bare: Run, watched: Run, setting: Setting) -> str:
    if setting.device != "cuda":
        return "; traced only, there are no CUDA graphs"
    return f"; {watched.launches} graphs launched, without {bare.launches}"


def checks() -> list[Check]:
    """Return the rows."""
    found = []
    for whole, what in ((False, "compiled network"), (True, "compiled module")):
        found += [
            Check(
                name=f"{what}, CUDA graphs: monitor and clipping",
                expected=f"weights bit for bit those without, {STEPS // 3} logged, as many graphs launched",
                measure=partial(identical, whole),
            ),
            Check(
                name=f"{what}, CUDA graphs: detector",
                expected="weights within 1e-3 of those without (sampled steps run uncompiled), 3 layers seen",
                measure=partial(detector, whole),
            ),
        ]
    return found
