"""What was wrong with a run, by its measured outcome. Nothing here knows the detector, or the recipe's fault.

The *progress* of a run is 1 - L / C: L is the objective on the whole training set, the mean of the last three
measurements, and C the loss of the best constant prediction. A run is *harmed* if its progress is below 0.8 of
that of its healthy twin with the same seed, and has *learnt* from 0.9 on; NaN is harmed.

A pathology is *present* by the definitions below, or *borderline* by the looser number in brackets. A run is **sick**
if one is present; **healthy** if it has learnt and none is even borderline; else it is *ambiguous*, and counts for
nothing but its own number. "Lasting" is three measurements in a row (at steps 0, 1, 2, 5, 10, 20 … 100, 120 …).
After the first value that is not finite only `nonfinite` is judged.

====================  ==================================================================================================
nonfinite             the loss or a weight is NaN or infinite after a step
no_gradient           a trainable parameter's gradient is absent or exactly zero at every step, and no ReLU layer is
                      wholly dead (borderline: one is)
dead_relu             at least 50 % (30 %) of the units of a ReLU layer are zero on every training sample, from some
                      measurement to the end of the run, at least three
vanishing_gradient    the norm of the loss gradient at some layer's output is below 1e-3 (1e-2) of that at the last
                      layer's, lasting, while no ReLU layer is wholly dead; and harmed
exploding_gradient    the norm of the gradient exceeds 100 (20) times the largest that the healthy twin has in its whole
                      run, or somewhere in the network 1e3 (1e2) times that at the last layer, lasting; and harmed
saturated_activation  more than 80 % (50 %) of the values of a tanh or sigmoid are in the outer 1 % of its range, or of
                      the rows of a softmax have a weight above 0.999, lasting; and harmed
poor_initialization   at step 0 all units of a layer have equal weights, or the layers' signals (deviation over samples)
                      differ by a factor above 1e3 (1e2), or the objective is above 10 C (3 C); and harmed
oscillating_loss      in the second half, between measurements, the objective moves by 0.2 C (0.05 C) in the median, and
                      at least a third of the moves go against the one before; and harmed
stalled_training      progress below half of the twin's, and the best objective falls by less than 0.02 C in the second
                      half of the run (borderline: it falls, too slowly to get there)
====================  ==================================================================================================

"and harmed": where the run is not, the strict number alone makes it borderline for vanishing and saturation, and the
others are not judged.

The onset of a pathology is the first measurement of the lasting stretch, or the step itself where each is recorded.
The layers are those that meet the criterion (for vanishing, the looser one).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

from detection.recipe import Recipe

LASTING = 3
Moment = Mapping[str, Any]
Run = Mapping[str, Any]


@dataclass(frozen=True)
class Label:
    """One pathology of one run."""

    kind: str
    onset: int
    layers: tuple[str, ...] = ()
    present: bool = True


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        verdict: `sick`, `healthy` or `ambiguous`.
        progress: relative to the twin's.
        labels: the pathologies, borderline ones included.
    """

    verdict: str
    progress: float
    labels: tuple[Label, ...] = field(default=())

    @property
    def present(self) -> dict[str, Label]:
        """The pathologies that are present, by kind."""
        return {label.kind: label for label in self.labels if label.present}


def progress(run: Run) -> float:
    """Return 1 - L / C, or minus infinity if a weight or the loss is not finite."""
    losses = [moment["objective"] for moment in run["measurements"][-LASTING:]]
    if run["nonfinite_step"] is not None or not all(map(math.isfinite, losses)):
        return -math.inf
    return 1.0 - float(sum(losses) / len(losses) / run["constant_loss"])


def outcome(run: Run, twin: Run, recipe: Recipe) -> Outcome:
    """Return what became of ``run``."""
    own, reference = progress(run), progress(twin)
    if reference < 0.3:
        return Outcome("ambiguous", own)  # a twin that does not learn tells nothing
    relative = own / reference
    harmed = relative < 0.8
    first_bad = run["nonfinite_step"]
    moments = [m for m in run["measurements"] if first_bad is None or m["step"] < first_bad]
    labels = [
        label
        for judge in (
            _nonfinite,
            _no_gradient,
            _dead,
            _vanishing,
            _exploding,
            _saturated,
            _poor,
            _oscillating,
            _stalled,
        )
        for label in judge(run, moments, twin, relative, harmed)
    ]
    if recipe.location:
        labels = [
            Label(label.kind, label.onset, recipe.location, label.present) if label.kind == "nonfinite" else label
            for label in labels
        ]
    if any(label.present for label in labels):
        verdict = "sick"
    else:
        verdict = "healthy" if relative >= 0.9 and not labels else "ambiguous"
    return Outcome(verdict, relative, tuple(labels))


def _stretch(
    moments: Sequence[Moment], holds: Callable[[Moment], object], to_the_end: bool = False
) -> Sequence[Moment]:
    """Return the first lasting stretch in which it holds, or the one at the end; empty if there is none."""
    current: list[Moment] = []
    for moment in moments:
        if holds(moment):
            current.append(moment)
        else:
            if len(current) >= LASTING and not to_the_end:
                return current
            current = []
    return current if len(current) >= LASTING else []


def _graded(
    kind: str,
    moments: Sequence[Moment],
    layers: Callable[..., list[str]],
    present: bool,
    to_the_end: bool = False,
) -> list[Label]:
    """Return a label if ``layers(moment, strict)`` is not empty for long enough, present if by the strict number."""
    for strict in (True, False):
        found = _stretch(moments, partial(layers, strict=strict), to_the_end)
        if found:
            at = tuple(dict.fromkeys(name for moment in found[:LASTING] for name in layers(moment, strict)))
            return [Label(kind, found[0]["step"], at, strict and present)]
    return []


def _wholly_dead(moment: Moment) -> bool:
    return max(moment["dead"].values(), default=0.0) >= 1.0


def _nonfinite(run: Run, moments: Sequence[Moment], twin: Run, relative: float, harmed: bool) -> list[Label]:
    step = run["nonfinite_step"]
    return [] if step is None else [Label("nonfinite", step)]


def _no_gradient(run: Run, moments: Sequence[Moment], twin: Run, relative: float, harmed: bool) -> list[Label]:
    if not run["never"]:
        return []
    layers = tuple(dict.fromkeys(name.rpartition(".")[0] for name in run["never"]))
    return [Label("no_gradient", 0, layers, not any(map(_wholly_dead, moments)))]


def _dead(run: Run, moments: Sequence[Moment], twin: Run, relative: float, harmed: bool) -> list[Label]:
    def layers(moment: Moment, strict: bool) -> list[str]:
        return [name.partition("#")[0] for name, share in moment["dead"].items() if share >= (0.5 if strict else 0.3)]

    return _graded("dead_relu", moments, layers, True, to_the_end=True)


def _vanishing(run: Run, moments: Sequence[Moment], twin: Run, relative: float, harmed: bool) -> list[Label]:
    cut = {name.rpartition(".")[0] for name in run["never"]}

    def layers(moment: Moment, strict: bool) -> list[str]:
        norms = moment["backward"]
        last = list(norms.values())[-1] if norms else 0.0
        if last <= 0 or _wholly_dead(moment):
            return []
        shares = {name: norm / last for name, norm in norms.items() if name not in cut}
        limit = 1e-3 if strict or not harmed else 1e-2
        least = min(shares.values(), default=1.0)
        return [name for name, share in shares.items() if share < 1e-2] if least < limit else []

    return _graded("vanishing_gradient", moments, layers, harmed)


def _exploding(run: Run, moments: Sequence[Moment], twin: Run, relative: float, harmed: bool) -> list[Label]:
    if not harmed:
        return []
    largest = max(filter(math.isfinite, twin["grad_norms"]), default=math.inf)

    def layers(moment: Moment, strict: bool) -> list[str]:
        norms = moment["backward"]
        last = list(norms.values())[-1] if norms else 0.0
        limit = (1e3 if strict else 1e2) * last
        return [name for name, norm in norms.items() if norm > limit] if last > 0 else []

    for strict, factor in ((True, 100), (False, 20)):
        for step, norm in enumerate(run["grad_norms"], start=1):
            if norm > factor * largest or (not math.isfinite(norm) and run["nonfinite_step"] is None):
                at = max((m for m in moments if m["step"] <= step), key=lambda m: int(m["step"]), default=None)
                sizes = at["gradient"] if at else {}
                top = max(sizes.values(), default=0.0)
                return [Label("exploding_gradient", step, tuple(n for n, g in sizes.items() if g >= 0.1 * top), strict)]
    return _graded("exploding_gradient", moments, layers, True)


def _saturated(run: Run, moments: Sequence[Moment], twin: Run, relative: float, harmed: bool) -> list[Label]:
    def layers(moment: Moment, strict: bool) -> list[str]:
        return [name for name, share in moment["flat"].items() if share > (0.8 if strict or not harmed else 0.5)]

    return _graded("saturated_activation", moments, layers, harmed)


def _poor(run: Run, moments: Sequence[Moment], twin: Run, relative: float, harmed: bool) -> list[Label]:
    if not harmed or not moments:
        return []
    start = moments[0]
    if start["twins"]:
        return [Label("poor_initialization", 0, tuple(start["twins"]))]
    signals = {name: signal for name, signal in start["signal"].items() if math.isfinite(signal)}
    top, least = max(signals.values(), default=1.0), min(signals.values(), default=1.0)
    ratio = top / least if least > 0 else math.inf
    loss = start["objective"] / run["constant_loss"]
    if ratio > 1e3 or loss > 10:
        first = next(iter(signals.values()), 1.0)
        far = tuple(n for n, s in signals.items() if not 0.03 < s / first < 30) if first > 0 else ()
        return [Label("poor_initialization", 0, far)]
    return [Label("poor_initialization", 0, (), False)] if ratio > 1e2 or loss > 3 else []


def _oscillating(run: Run, moments: Sequence[Moment], twin: Run, relative: float, harmed: bool) -> list[Label]:
    if not harmed or run["nonfinite_step"] is not None or len(moments) < 6:
        return []
    unit = run["constant_loss"]
    losses = [m["objective"] / unit for m in moments]
    moves = [after - before for before, after in pairwise(losses)]
    late = moves[len(moves) // 2 :]
    size = sorted(map(abs, late))[len(late) // 2]
    turns = sum(a * b < 0 for a, b in pairwise(late)) / max(1, len(late) - 1)
    if turns < 1 / 3 or size < 0.05:
        return []
    onset = next(m["step"] for m, move in zip(moments[1:], moves, strict=True) if abs(move) >= 0.05)
    return [Label("oscillating_loss", onset, (), size >= 0.2)]


def _stalled(run: Run, moments: Sequence[Moment], twin: Run, relative: float, harmed: bool) -> list[Label]:
    if run["nonfinite_step"] is not None or relative >= 0.5 or len(moments) < 6:
        return []
    unit = run["constant_loss"]
    losses = [m["objective"] / unit for m in moments]
    half = next(i for i, m in enumerate(moments) if m["step"] >= moments[-1]["step"] / 2)
    moved = min(losses[: half + 1]) - min(losses[half:])
    best = min(losses)
    onset = next(m["step"] for i, m in enumerate(moments) if min(losses[: i + 1]) - best < 0.02)
    return [Label("stalled_training", onset, (), moved < 0.02)]
