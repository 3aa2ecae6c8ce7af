"""Extreme eigenvalues by the Lanczos iteration: full reorthogonalisation, thick restart, bounds from residuals.

Sources: Parlett, "The Symmetric Eigenvalue Problem" (1998), chapters 11 (bounds) and 13 (the iteration);
Wu & Simon, "Thick-restart Lanczos method for large symmetric eigenvalue problems" (2000).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_gradtools.curvature.operator import CurvatureOperator

_FIRST_ROWS = 16  # room for vectors at the start: one eigenvalue mostly converges within them


@dataclass(frozen=True)
class RitzPairs:
    """Approximate eigenpairs from a basis of m vectors, most wanted first.

    Attributes:
        values: (m,) Ritz values.
        coefficients: (m, m) column i is the i-th Ritz vector in the basis.
        residuals: (m,) norms of ``A x - value x``, with ``noise``.
        inner: (m,) how much of them lies in the basis: 0 but for errors of products.
        noise: (m,) how much of them errors of relaxed products may make, if they have nothing to do with each other.
    """

    values: Tensor
    coefficients: Tensor
    residuals: Tensor
    inner: Tensor
    noise: Tensor

    @property
    def errors(self) -> Tensor:
        r"""Return estimates (m,) of the distance to an eigenvalue: the smaller of r and r²/δ, and what noise adds.

        The distance of a Ritz value θ with residual r to the nearest eigenvalue is at most r; and at most
        r²/δ if no other eigenvalue is closer to it than δ (Kato-Temple; Parlett 1998, theorem 11.7.1). δ is
        estimated from the other Ritz values, each less its own residual; r is taken without ``noise``. An error E
        of products moves a Ritz value by xᵀE x, of the size of what is seen of E in the basis (``inner``); what
        lies outside, spread over directions whose eigenvalues are near zero, by ``noise``² / \|θ\|.
        """
        outside = self.noise**2 / self.values.abs().clamp(min=torch.finfo(self.values.dtype).tiny)
        estimates = error_estimates(self.values, self.residuals - self.noise)
        return torch.maximum(torch.maximum(estimates, self.inner), outside)


class Lanczos:
    """An orthonormal basis that grows by one product a step, and the operator projected on it.

    After m steps ``A V = V G + v bᵀ`` holds for the products as computed, with the basis V (n, m), the next
    vector v, and G upper Hessenberg or, after a restart, an arrow followed by it. Ritz values are
    eigenvalues of (G + Gᵀ)/2, and residuals use G itself, so that noise in the products is seen by them. Of a relaxed
    product the components along vectors whose own product was exact are replaced by what that says they are.

    Args:
        operator: symmetric.
        start: (n,) the first direction; zero draws one.
        max_basis: vectors kept; when they are, a restart keeps the best. Room for them grows as they come: 16 at first,
            then twice as many each time, so that an iteration which ends early never holds the whole of it.
        which: ``"magnitude"`` or ``"algebraic"``: what is wanted, largest first.
        relaxed: makes the products, and estimates the norm of their errors; None takes them for exact.
        deflate: (q, n) orthonormal rows; the iteration runs on their orthogonal complement.
        storage: the device of the basis; None is that of the vectors.
        generator: draws new directions where an invariant subspace is exhausted.

    Attributes:
        size: vectors in the basis, m.
        products: products spent.
        exhausted: whether the basis spans the whole (deflated) space.
        invariant: whether it came to span an invariant subspace, and went on from another direction.
    """

    def __init__(
        self,
        operator: CurvatureOperator,
        start: Tensor,
        *,
        max_basis: int,
        which: str = "magnitude",
        relaxed: Callable[[Tensor], tuple[Tensor, float]] | None = None,
        deflate: Tensor | None = None,
        storage: torch.device | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        space = operator.space
        self.operator, self.which, self._generator = operator, which, generator
        self._relaxed, self._deflate = relaxed, deflate
        self.limit = space.dimension - (0 if deflate is None else len(deflate))
        rows = min(max_basis, self.limit)
        self._basis = torch.empty(0, space.numel, dtype=space.dtype, device=storage or space.device)
        self._projected = torch.zeros(rows + 1, rows, dtype=torch.float64)  # G, and bᵀ as the row below it
        self._errors = torch.zeros(rows, dtype=torch.float64)  # norms, of each product
        self.size = self.products = 0
        self.exhausted = self.limit == 0
        self.invariant = False
        self._scale = 0.0  # the largest product seen: what rounding is relative to
        if not self.exhausted:
            self._append(self._direction(start))

    @property
    def rounding(self) -> float:
        """What rounding in products and inner products can add to an error, in units of the eigenvalues."""
        return 32 * torch.finfo(self._basis.dtype).eps * self._scale

    def basis(self) -> Tensor:
        """Return the basis as rows (m, n), a view of the room that there is for it."""
        return self._basis[: self.size]

    def step(self) -> None:
        """Spend one product; restart first if the basis is full."""
        if self.full:
            self._restart()
        space, column = self.operator.space, self.size
        vector = self._basis[column].to(space.device)
        image, error = (self.operator.matvec(vector), 0.0) if self._relaxed is None else self._relaxed(vector)
        self.products += 1
        self.size += 1
        if self._deflate is not None:
            image = self._without(image, self._deflate)[0]
        rest, shadow, beta = self._orthogonalize(image)
        if self._deflate is not None:  # again: where little is left, rounding may be much of it
            rest = self._without(rest, self._deflate)[0]
            beta = space.norm(rest)
        self._projected[: self.size, column] = shadow
        self._errors[column] = error
        if error:
            self._correct(column)
        self._scale = max(self._scale, math.hypot(beta, *shadow.tolist()))
        if self.size == self.limit:
            self.exhausted = True
        elif beta > self.rounding:
            self._projected[self.size, column] = beta
            self._append(rest, 1 / beta)
        else:  # the subspace is invariant: another direction has nothing to do with it
            self.invariant = True
            self._append(self._direction(torch.zeros_like(rest)))

    @property
    def noise(self) -> float:
        """The Frobenius norm of what the errors of relaxed products add to the products with the basis, estimated."""
        return float(self._errors[: self.size].norm())

    @property
    def full(self) -> bool:
        """Whether another step restarts."""
        return self.size == self._projected.shape[1]

    def projected_trace(self) -> float:
        """Return the trace of the operator projected on the basis."""
        return float(self._projected[: self.size, : self.size].trace())

    def quadrature(self) -> tuple[Tensor, Tensor]:
        """Return nodes (m,) and weights (m,) of the Gauss quadrature for the starting vector; before a restart."""
        g = self._projected[: self.size, : self.size]
        values, vectors = torch.linalg.eigh((g + g.T) / 2)
        return values, vectors[0].square()

    def complement(self, vector: Tensor, basis: Tensor) -> Tensor:
        """Return ``vector`` (n,) without its projection on orthonormal rows (m, n)."""
        return self._without(vector, basis)[0]

    def outlook(self, k: int) -> list[tuple[float, float]]:
        """Return the k most wanted Ritz values and how strongly each is coupled to the next vector.

        The coupling is the residual as it would be without noise in the products, and at most the residual.
        This is what :meth:`ritz_pairs` costs a third of.
        """
        size = self.size
        g = self._projected[:size, :size]
        values, vectors = torch.linalg.eigh((g + g.T) / 2)
        beta = float(self._projected[size, size - 1])
        pairs = zip(values.tolist(), vectors[-1].tolist(), strict=True)
        ranked = sorted(pairs, key=lambda pair: abs(pair[0]) if self.which == "magnitude" else pair[0], reverse=True)
        return [(value, beta * abs(last)) for value, last in ranked[:k]]

    def ritz_pairs(self) -> RitzPairs:
        """Return what the basis says."""
        size = self.size
        g = self._projected[:size, :size]
        values, vectors = torch.linalg.eigh((g + g.T) / 2)
        order = torch.argsort(values.abs() if self.which == "magnitude" else values, descending=True, stable=True)
        values, vectors = values[order], vectors[:, order]
        apart = self._projected[: size + 1, :size] @ vectors  # A x in the basis and the next vector
        apart[:size] -= vectors * values
        noise = (self._errors[:size, None] * vectors).norm(dim=0)
        return RitzPairs(values, vectors, apart.norm(dim=0) + noise, apart[:size].norm(dim=0), noise)

    def vectors(self, coefficients: Tensor) -> Tensor:
        """Return the vectors (k, n) with these ``coefficients`` (m, k) in the basis."""
        basis = self.basis()
        return coefficients.T.to(basis.device, basis.dtype) @ basis

    def _restart(self) -> None:
        """Keep the Ritz vectors that are wanted most and the next direction (thick restart)."""
        rows = self._projected.shape[1]
        keep = max(1, rows // 2)
        pairs = self.ritz_pairs()
        kept = pairs.coefficients[:, :keep]
        coupling = self._projected[rows, :rows] @ kept
        following = self._basis[rows].clone()
        rotated = self.vectors(kept)
        self._basis[:keep] = rotated
        self._basis[keep] = following
        inner = kept.T @ self._projected[:rows, :rows] @ kept
        self._errors.zero_()
        self._errors[:keep] = pairs.noise[:keep]
        self._projected.zero_()
        self._projected[:keep, :keep] = inner
        self._projected[keep, :keep] = coupling
        self.size = keep

    def _correct(self, column: int) -> None:
        """Put into a relaxed product what exact ones say of it, ``vᵢᵀ(A v) = (A vᵢ)ᵀ v``, and learn of its error."""
        exact = self._errors[:column] == 0
        said = self._projected[column, :column][exact]
        apart = float((self._projected[:column, column][exact] - said).norm())
        self._projected[:column, column][exact] = said
        self._errors[column] = max(float(self._errors[column]), apart)

    def _append(self, vector: Tensor, factor: float = 1.0) -> None:
        if self.size == len(self._basis):
            self._grow()
        row = self._basis[self.size]
        torch.mul(vector.to(row.device), factor, out=row)

    def _grow(self) -> None:
        """Double the room for vectors. The old room and the new exist together while one is copied to the other."""
        held = self._basis
        rows = min(max(2 * len(held), _FIRST_ROWS), len(self._projected))
        self._basis = torch.empty(rows, held.shape[1], dtype=held.dtype, device=held.device)
        self._basis[: len(held)] = held

    def _orthogonalize(self, image: Tensor) -> tuple[Tensor, Tensor, float]:
        """Return an ``image`` (n,) of the last vector minus its projection on the basis, that (m,), and what is left.

        In exact arithmetic an image has components along the last two vectors alone; they are taken away first, by
        themselves, and then what rounding, noise or a restart left along any: Gram-Schmidt, repeated only
        where it took much away (Daniel, Gragg, Kaufman & Stewart 1976, with their η = √2). Without the first part
        it would take much away every time, and one pass for all (η = 10) is not enough: in float32 the sums over 0.8M
        weights are so far off that the basis of a GPT lost its orthogonality within 20 vectors.
        """
        space, rows = self.operator.space, self._basis[: self.size]
        recent = rows[-2:]
        rest = image.to(rows.device)
        local = space.dots(recent, rest)
        rest = torch.addmv(rest, recent.T, local, alpha=-1)
        shadow = part = space.dots(rows, rest)
        rest = torch.addmv(rest, rows.T, part, alpha=-1)
        left, taken = space.norm(rest), math.hypot(*part.tolist())
        shadow[-2:] += local
        # where all that is left is rounding, there is no direction to make orthogonal
        while torch.finfo(rest.dtype).eps * math.hypot(*shadow.tolist()) < left < taken:
            part = space.dots(rows, rest)
            rest = torch.addmv(rest, rows.T, part, alpha=-1)
            left, taken = space.norm(rest), math.hypot(*part.tolist())
            shadow += part
        if not math.isfinite(left):
            raise ArithmeticError("a product is not finite")
        return rest, shadow, left

    def _direction(self, wanted: Tensor) -> Tensor:
        """Return ``wanted`` made orthonormal to the basis, or a random vector if nothing is left of it."""
        space = self.operator.space
        for _ in range(10):
            norm = space.norm(wanted)
            if norm > 0:
                rest = wanted / norm
                if self._deflate is not None:
                    rest = self._without(rest, self._deflate)[0]
                rest = self._without(rest, self._basis[: self.size])[0]
                left = space.norm(rest)
                if left > 1e-3:
                    return rest / left
            wanted = space.random(self._generator)
        raise ArithmeticError("no direction is orthogonal to the basis within rounding, or a loss is not finite")

    def _without(self, vector: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``vector`` minus its projection on orthonormal ``rows``, and the projection (m,) in float64.

        Gram-Schmidt, twice: enough for orthogonality to working precision (Parlett 1998, section 6.9).
        """
        total = torch.zeros(len(rows), dtype=torch.float64)
        if not len(rows):
            return vector, total
        rest = vector.to(rows.device)
        for _ in range(2):
            part = self.operator.space.dots(rows, rest)
            rest = rest - part @ rows
            total += part.to("cpu", torch.float64)
        return rest.to(vector.device), total


def error_estimates(values: Tensor, residuals: Tensor) -> Tensor:
    """Return the smaller of r and r²/δ for each Ritz value; see :attr:`RitzPairs.errors`.

    Args:
        values: (m,) Ritz values.
        residuals: (m,) their residual norms r.
    """
    if len(values) < 2:
        return residuals
    distance = (values[:, None] - values[None, :]).abs() - residuals[None, :]
    distance.fill_diagonal_(torch.inf)
    gap = distance.min(dim=1).values
    quadratic = torch.where(gap > residuals, residuals**2 / gap.clamp(min=torch.finfo(gap.dtype).tiny), torch.inf)
    return torch.minimum(residuals, quadratic)
