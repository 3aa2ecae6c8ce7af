"""The eigenvalues that are wanted, to a tolerance: Lanczos until residuals say stop."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_gradtools.curvature.budget import Meter
from lightning_gradtools.curvature.lanczos import Lanczos, RitzPairs
from lightning_gradtools.curvature.operator import CurvatureOperator

_PATIENCE = 40  # products without progress, after which noise in them is taken to be the reason


@dataclass(frozen=True)
class Eigenpairs:
    """Eigenvalues found, most wanted first.

    Attributes:
        values: (k,) float64 on the host.
        residuals: (k,) norms of ``A x - λ x``, a bound of the distance to the nearest eigenvalue.
        bounds: (k,) residuals, and what rounding and the operator's own error may add.
        vectors: (k, n) orthonormal rows.
        converged: whether all are within the tolerance.
        noisy: whether errors of relaxed products, and nothing else, kept them from it.
        resolution: eigenvalues smaller than this cannot be told from zero.
    """

    values: Tensor
    residuals: Tensor
    bounds: Tensor
    vectors: Tensor
    converged: bool
    resolution: float
    noisy: bool = False


def start_vector(
    operator: CurvatureOperator, warm: Tensor | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Return the first direction (n,) of an iteration: the gradient, what is known, and a random part.

    The gradient lies mostly in the span of the top eigenvectors (Gur-Ari, Roberts & Dyer 2018,
    arXiv:1812.04754), and is often there for nothing. The random part has as much weight, because a direction
    that the start lacks is never found. Beside what is known both have little, and a warm start that has become
    useless costs no more than the logarithm of that.

    Args:
        operator: whose gradient is used where it has one.
        warm: (k, n) eigenvectors known from before; None starts cold.
        generator: of the random part.
    """
    space = operator.space
    draw = space.random(generator)
    start = draw / space.norm(draw)
    if warm is not None and len(warm):
        known = warm.to(space.device, space.dtype).sum(0)
        if (length := space.norm(known)) > 0:
            start = 0.1 * start + known / length
    gradient = operator.gradient()
    if gradient is not None and (length := space.norm(gradient)) > 0:
        start = start + (0.03 if warm is not None and len(warm) else 1.0) * gradient / length
    return start


def residual_slack(k: int) -> float:
    """Return how many times the tolerance a residual may be where its square promises it: 4/k.

    The square is not to be trusted alone: a start that has little of an eigenvector lets its eigenvalue go
    unseen until residuals of the others are small, and two close eigenvalues pass for one. All later values
    are then those of the next ones, so the more are wanted the likelier it gets. A slack of 8 ended in wrong values in
    2.4% of the runs that looked for five, and 4/k in none (docs/curvature.md, where further slacks are).

    Args:
        k: eigenvalues wanted.
    """
    return 4 / max(k, 1)


def eigenpairs(
    lanczos: Lanczos,
    k: int,
    *,
    rtol: float,
    meter: Meter,
    progress: Callable[[int, float], None] | None = None,
    fastest_fall: float = 16.0,
) -> Eigenpairs:
    """Run ``lanczos`` until its k most wanted Ritz pairs have converged or ``meter`` says stop.

    A pair (θ, x) has converged when its error estimate (:attr:`RitzPairs.errors`) is at most ``rtol |θ|`` and what
    couples it to the next vector, which is its residual but for noise, at most :func:`residual_slack` times that. It
    gives up when noise in the products keeps errors from falling. Values that rounding cannot tell from zero
    count as converged once their error is as small.

    Args:
        lanczos: goes on where it stands.
        k: how many are wanted; fewer are returned where the basis does not hold as many yet.
        rtol: relative tolerance of each.
        meter: allows products.
        progress: called after each product with the products spent and the largest error estimate, relative.
        fastest_fall: by what factor residuals fall in a step at most: it looks at them only when they may be small
            enough at this rate. At 16 that delayed the end in none of 714 runs of :func:`residual_slack` (at 8, for one
            eigenvalue, in three), and saves a fifth of the looks, each of which costs a small network an eighth of a
            product.
    """
    wanted, slack = min(k, lanczos.limit), residual_slack(k)
    pairs, done, noisy, best, latest, look = None, wanted == 0, False, math.inf, 0, 0
    while not done and not noisy and not lanczos.exhausted and meter.affords_product():
        lanczos.step()
        pairs = None
        if lanczos.size < wanted:
            continue
        if progress is not None:
            pairs = lanczos.ritz_pairs()
            scale = pairs.values[:wanted].abs().clamp(min=lanczos.rounding or 1.0)
            progress(lanczos.products, float((pairs.errors[:wanted] / scale).max()))
        if lanczos.products < look:
            continue
        excess = _excess(lanczos.outlook(wanted), slack * rtol, lanczos.rounding)
        if excess <= 1:
            pairs = pairs or lanczos.ritz_pairs()
            errors = zip(pairs.values.tolist(), pairs.errors[:wanted].tolist(), strict=False)
            excess = _excess(list(errors), rtol, lanczos.rounding)
            done = excess <= 1
            noisy = lanczos.noise > 0 and not done
        elif math.isfinite(excess):
            look = lanczos.products + max(1, int(math.log(excess, fastest_fall)))
        if excess < 0.9 * best:
            best, latest = excess, lanczos.products
        elif lanczos.products - latest >= _PATIENCE:
            break
    if pairs is None and lanczos.size:
        pairs = lanczos.ritz_pairs()
    found = selected(lanczos, pairs, wanted, done or (lanczos.exhausted and lanczos.size >= wanted))
    return replace(found, noisy=noisy)


def selected(lanczos: Lanczos, pairs: RitzPairs | None, wanted: int, converged: bool) -> Eigenpairs:
    """Return the ``wanted`` first of ``pairs`` with their vectors."""
    if pairs is None:
        nothing = torch.zeros(0, dtype=torch.float64)
        space = lanczos.operator.space
        empty = torch.zeros(0, space.numel, dtype=space.dtype, device=space.device)
        return Eigenpairs(nothing, nothing, nothing, empty, converged and wanted == 0, 0.0)
    return Eigenpairs(
        pairs.values[:wanted].clone(),
        pairs.residuals[:wanted].clone(),
        pairs.residuals[:wanted] + lanczos.operator.error * pairs.values[:wanted].abs() + lanczos.rounding,
        lanczos.vectors(pairs.coefficients[:, :wanted]),
        converged,
        lanczos.rounding,
    )


def complete(
    found: Eigenpairs,
    operator: CurvatureOperator,
    *,
    rtol: float,
    which: str,
    max_basis: int,
    meter: Meter,
    storage: torch.device | None = None,
    generator: torch.Generator | None = None,
) -> Eigenpairs:
    """Look for copies of multiple eigenvalues, and for any that were missed, where ``found`` cannot see.

    One starting vector shows one vector of each eigenspace, in exact arithmetic. So the most wanted
    eigenvalue of the operator on the complement of what was found is computed from a new random vector; while
    it is wanted more than the last one found, it takes its place among them.
    """
    k = len(found.values)
    while found.converged and 0 < k < operator.space.dimension:
        lanczos = Lanczos(
            operator,
            operator.space.random(generator),
            max_basis=max_basis,
            which=which,
            deflate=found.vectors.to(operator.space.device),
            storage=storage,
            generator=generator,
        )
        more = eigenpairs(lanczos, 1, rtol=rtol, meter=meter)
        if not len(more.values):
            return _with(found, found, 0, converged=False)
        key = torch.abs if which == "magnitude" else torch.clone
        tolerance = rtol * float(found.values[-1].abs()) + found.resolution
        if float(key(more.values)[0]) <= float(key(found.values)[-1]) + tolerance:
            return found if more.converged else _with(found, found, 0, converged=False)
        found = _with(found, more, 1, converged=more.converged, which=which)
    return found


def resolved_part(found: Eigenpairs, tolerance: float = 0.05) -> Eigenpairs:
    """Return the pairs whose residual is at most ``tolerance`` times their value, fit to be deflated."""
    good = found.residuals <= tolerance * found.values.abs()
    rows = good.to(found.vectors.device)
    return Eigenpairs(
        found.values[good],
        found.residuals[good],
        found.bounds[good],
        found.vectors[rows],
        found.converged,
        found.resolution,
    )


def _with(found: Eigenpairs, more: Eigenpairs, count: int, *, converged: bool, which: str = "magnitude") -> Eigenpairs:
    """Return the k most wanted of ``found`` and the first ``count`` of ``more``."""
    k = len(found.values)
    values = torch.cat([found.values, more.values[:count]])
    order = torch.argsort(values.abs() if which == "magnitude" else values, descending=True, stable=True)[:k]

    def pick(name: str) -> Tensor:
        both = torch.cat([getattr(found, name), getattr(more, name)[:count].to(getattr(found, name))])
        return both[order.to(both.device)]

    return Eigenpairs(
        values[order],
        pick("residuals"),
        pick("bounds"),
        pick("vectors"),
        converged,
        max(found.resolution, more.resolution),
    )


def _excess(pairs: list[tuple[float, float]], rtol: float, rounding: float) -> float:
    """Return how many times larger than allowed the worst error of pairs (value, error) is."""
    least = max(rounding, sys.float_info.min)
    return max(error / max(rtol * abs(value), least) for value, error in pairs)
