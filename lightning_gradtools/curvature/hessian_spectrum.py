"""The spectrum of a Hessian in one call."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from lightning_gradtools.arguments import integer, number, one_of
from lightning_gradtools.curvature.budget import Budget, Meter
from lightning_gradtools.curvature.composition import CountedProducts
from lightning_gradtools.curvature.eigensolver import complete, eigenpairs, resolved_part, start_vector
from lightning_gradtools.curvature.lanczos import Lanczos
from lightning_gradtools.curvature.method import hessian_operator
from lightning_gradtools.curvature.operator import CurvatureOperator, LossFunction
from lightning_gradtools.curvature.parameter_space import ParameterSpace
from lightning_gradtools.curvature.quadrature import estimate_density, estimate_trace
from lightning_gradtools.curvature.relaxation import RelaxedProducts
from lightning_gradtools.curvature.spectrum import Density, Spectrum, Trace
from lightning_gradtools.distributed import largest_over_ranks

_T = TypeVar("_T")

_TRACE_PRODUCTS = 100
_DENSITY_PRODUCTS = 500
_DENSITY_STEPS = 50


def hessian_spectrum(
    loss_fn: LossFunction | Sequence[LossFunction],
    params: Iterable[Tensor],
    *,
    top_k: int = 5,
    rtol: float = 1e-3,
    which: str = "magnitude",
    density: bool | int = False,
    trace: bool | int = False,
    method: str = "auto",
    start: Spectrum | Tensor | None = None,
    budget: float | Budget | None = None,
    generator: torch.Generator | None = None,
    keep_vectors: bool = False,
    multiplicity: bool = False,
    max_basis: int | None = None,
    offload: bool = False,
    memory: int | None = None,
    average_ranks: bool = False,
    progress: Callable[[int, float], None] | None = None,
) -> Spectrum:
    """Return eigenvalues of the Hessian of a loss with respect to ``params``, and what else is asked for.

    The mode of the network is the caller's: put dropout and batch normalisation into evaluation mode first,
    or the loss is another one at every call. Parameters and their ``.grad`` are left as they were.

    Args:
        loss_fn: returns the scalar loss on fixed data, the same at every call; several are averaged, one for each
            batch. It may be called with the parameters moved a little.
        params: of the whole Hessian, or of the block of one layer. Frozen ones are left out, tied ones
            counted once; they may be sharded (FSDP2).
        top_k: how many eigenvalues; 0 for none.
        rtol: relative error of each. The default is what a plot can show.
        which: ``"magnitude"``: largest absolute value; ``"algebraic"``: largest.
        density: whether to estimate the density of all eigenvalues, or with how many products in all (at least
            50; True is 500).
        trace: whether to estimate the trace, or with how many products in all (True is 100).
        method: ``"retained"``, ``"linearize"``, ``"fresh"``, ``"finite_difference"``, or ``"auto"``: see
            :class:`~lightning_gradtools.curvature.method.AutomaticHessian`; it alone takes differences for later
            products where that is good enough, for which bounds allow.
        start: an earlier spectrum with its vectors, or vectors (k, n), to start from.
        budget: gradients (by operation count) or a :class:`Budget` in seconds too; when it is spent the best
            found is returned, marked as not converged. It is checked before each product.
        generator: of the random vectors, on the host; None is torch's own.
        keep_vectors: whether to return the eigenvectors.
        multiplicity: whether to look for further copies of multiple eigenvalues, and for any that were missed; about
            twice the price. One starting vector shows a repeated eigenvalue once, so without this the values after it
            are the next distinct ones.
        max_basis: vectors of the size of ``params`` to keep; beyond them the iteration restarts with the best
            half. None is 4 top_k + 40.
        offload: whether to keep them on the host.
        memory: bytes that graphs may hold (see ``AutomaticHessian``), and by themselves the vectors that are kept on
            the device; but top_k + 2 vectors are kept at least, and 50 by each probe of the density.
        average_ranks: whether every rank has its own data and a loss of its own, as under DDP, and the
            Hessian is that of their mean. All ranks must call.
        progress: called after each product with the products spent and the largest relative error estimate.

    Raises:
        ArgumentError: for a value that cannot work, or a loss that is not a scalar with a graph.
        ArithmeticError: if a product is not finite.
        RankFailure: with ``average_ranks``, on all ranks but those that failed by themselves.
    """
    started = time.perf_counter()
    integer("top_k", top_k, at_least=0)
    number("rtol", rtol, above=0, below=1)
    one_of("which", which, ["magnitude", "algebraic"])
    trace_products = _TRACE_PRODUCTS if trace is True else integer("trace", int(trace), at_least=0)
    density_products = _DENSITY_PRODUCTS if density is True else integer("density", int(density), at_least=0)
    room = 4 * top_k + 40 if max_basis is None else integer("max_basis", max_basis, at_least=top_k + 2)
    if trace_products and not density_products and max_basis is None:
        room = max(room, trace_products // 2)
    limits = budget if isinstance(budget, Budget) else Budget(gradients=budget)
    operator = hessian_operator(loss_fn, params, method=method, memory=memory, average_ranks=average_ranks)
    return operator_spectrum(
        operator,
        top_k=top_k,
        rtol=rtol,
        which=which,
        density_products=density_products,
        trace_products=trace_products,
        start=start.eigenvectors if isinstance(start, Spectrum) else start,
        meter=Meter(operator, limits, started, shared=average_ranks or operator.space.sharded),
        generator=generator,
        keep_vectors=keep_vectors,
        multiplicity=multiplicity,
        max_basis=room,
        memory=memory,
        storage=torch.device("cpu") if offload else None,
        progress=progress,
    )


def operator_spectrum(
    operator: CurvatureOperator,
    *,
    top_k: int,
    rtol: float,
    meter: Meter,
    which: str = "magnitude",
    density_products: int = 0,
    trace_products: int = 0,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
    keep_vectors: bool = False,
    multiplicity: bool = False,
    max_basis: int = 60,
    memory: int | None = None,
    storage: torch.device | None = None,
    progress: Callable[[int, float], None] | None = None,
    on_failure: Callable[[str, Exception], None] | None = None,
) -> Spectrum:
    """Return the spectrum of any symmetric operator; the arguments are those of :func:`hessian_spectrum`.

    Where ``on_failure`` is given, a trace or density that fails is None: it is called with "trace" or "density", and
    with what was raised.
    """
    counted = CountedProducts(operator)
    relaxed = RelaxedProducts(counted, rtol, meter)
    if memory is not None and storage is None:
        max_basis = min(max_basis, max(_rows_within(memory, counted.space), top_k + 2))

    def iteration(first: Tensor, relaxed: RelaxedProducts | None) -> Lanczos:
        return Lanczos(
            counted,
            first,
            max_basis=max_basis,
            which=which,
            relaxed=relaxed,
            storage=storage,
            generator=generator,
        )

    lanczos = iteration(start_vector(counted, start, generator), relaxed)
    found = eigenpairs(lanczos, top_k, rtol=rtol, meter=meter, progress=progress)
    if found.noisy and meter.affords_product():
        exact = iteration(start_vector(counted, found.vectors, generator), None)
        again = eigenpairs(exact, top_k, rtol=rtol, meter=meter, progress=progress)
        if again.converged or (len(again.values) == len(found.values) and again.bounds.max() < found.bounds.max()):
            lanczos, found = exact, again  # or the budget ended before it was any better
    if multiplicity:
        found = complete(
            found,
            counted,
            rtol=rtol,
            which=which,
            max_basis=max_basis,
            meter=meter,
            storage=storage,
            generator=generator,
        )
    trace: Trace | None = None
    density: Density | None = None
    if density_products:
        known = resolved_part(found)

        def by_probes() -> tuple[Density, Trace]:
            return estimate_density(
                counted,
                known.values,
                known.vectors,
                products=max(density_products - counted.products, 1),
                steps=_DENSITY_STEPS,
                meter=meter,
                storage=storage,
                generator=generator,
            )

        density, trace = _unless_it_fails("density", by_probes, on_failure) or (None, None)
    elif trace_products:

        def by_projection() -> Trace:
            return estimate_trace(counted, lanczos, trace_products, meter, generator)

        trace = _unless_it_fails("trace", by_projection, on_failure)
    gradient = counted.gradient()
    return Spectrum(
        eigenvalues=found.values,
        bounds=found.bounds,
        residuals=found.residuals,
        eigenvectors=found.vectors if keep_vectors else None,
        trace=trace,
        density=density,
        dimension=counted.space.dimension,
        products=counted.products,
        gradients_spent=counted.gradients_spent,
        seconds=meter.seconds,
        method=operator.name + relaxed.account(),
        converged=found.converged,
        resolution=found.resolution,
        multiplicity=multiplicity,
        gradient_cosine=_cosine(gradient, found.vectors, counted),
    )


def _unless_it_fails(
    part: str, compute: Callable[[], _T], on_failure: Callable[[str, Exception], None] | None
) -> _T | None:
    if on_failure is None:
        return compute()
    try:
        return compute()
    except Exception as error:
        on_failure(part, error)
        return None


def _rows_within(memory: int, space: ParameterSpace) -> int:
    """Return how many vectors ``memory`` bytes hold twice, as while room for them grows, beside the next direction."""
    row = space.numel * torch.finfo(space.dtype).bits // 8
    if space.sharded:  # ranks restart together
        row = int(largest_over_ranks(torch.tensor([float(row)], device=space.device)))
    return memory // (2 * row) - 1


def _cosine(gradient: Tensor | None, vectors: Tensor, operator: CurvatureOperator) -> float:
    """Return the length of the gradient's projection on orthonormal rows (k, n) over its own."""
    if gradient is None or not (length := operator.space.norm(gradient)):
        return float("nan")
    return float(operator.space.dots(vectors, gradient.to(vectors.device)).norm()) / length
