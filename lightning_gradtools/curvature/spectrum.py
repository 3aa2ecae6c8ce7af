"""What a computation of a spectrum found."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Density:
    """The distribution of all eigenvalues, as point masses.

    Attributes:
        support: (s,) eigenvalues in ascending order, float64 on the host.
        weights: (s,) their shares, which sum to one.
        error: standard error of the Wasserstein-1 distance that the random probes cause, estimated from two
            halves of them (units of an eigenvalue); NaN with fewer than two.
    """

    support: Tensor
    weights: Tensor
    error: float

    def smoothed(self, grid: Tensor, width: float = 0.02) -> Tensor:
        """Return the density at ``grid`` (g,), each point mass spread over a narrow Gaussian.

        Each mass has the width that its neighbourhood allows: the distance to its neighbours in the support, but at
        most ``width`` times the range. One width for all would bury the bulk under its outliers.
        """
        reach = float(self.support[-1] - self.support[0]) or 1.0
        spacing = torch.full_like(self.support, width * reach)
        if len(self.support) > 1:
            gaps = self.support.diff()
            nearest = torch.minimum(
                torch.cat([gaps[:1], gaps]), torch.cat([gaps, gaps[-1:]])
            )  # to the closer neighbour of each
            spacing = nearest.clamp(min=width * reach * 1e-3, max=width * reach)
        z = (grid[:, None].double() - self.support) / spacing
        masses: Tensor = torch.exp(-z.square() / 2) / (spacing * (2 * torch.pi) ** 0.5)
        return masses @ self.weights


@dataclass(frozen=True)
class Trace:
    """The sum of all eigenvalues.

    Attributes:
        value: the estimate.
        standard_error: of the estimate, from its random probes and from differences in place of products; 0 if it
            is exact.
    """

    value: float
    standard_error: float


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of a curvature operator, and what they cost.

    Attributes:
        eigenvalues: (k,) float64 on the host, as asked for: by magnitude or algebraically, largest first.
        bounds: (k,) how far from each eigenvalue found one of the operator is at most, from the residual. It is the
            operator in the precision of the parameters: in float32, cross-entropies below 3e-4 moved eigenvalues by
            up to 5 such bounds away from those in float64.
        residuals: (k,) norms of ``A x - λ x``; where differences took the place of products, with an estimate of what
            their errors may add.
        eigenvectors: (k, n) rows, orthonormal and sharded as the parameters are; None unless asked for.
        trace: None unless asked for.
        density: None unless asked for.
        dimension: number of parameters.
        products: operator-vector products spent.
        gradients_spent: the same in gradients (one forward and backward), by operation count.
        seconds: wall-clock time.
        method: the operator that made the products, why it was chosen, and how many were differences of gradients.
        converged: whether each eigenvalue is within the tolerance asked for, by the error that its residual and
            the gap to its neighbours imply.
        resolution: eigenvalues smaller than this cannot be told from zero.
        multiplicity: whether further copies of repeated eigenvalues were looked for; if not, each is there once,
            however often the operator has it.
        gradient_cosine: length of the gradient's projection on the eigenvectors over its own; NaN if unknown.
    """

    eigenvalues: Tensor
    bounds: Tensor
    residuals: Tensor
    eigenvectors: Tensor | None
    trace: Trace | None
    density: Density | None
    dimension: int
    products: int
    gradients_spent: float
    seconds: float
    method: str
    converged: bool
    resolution: float = 0.0
    gradient_cosine: float = float("nan")
    multiplicity: bool = False

    @property
    def condition_number(self) -> float:
        """The largest eigenvalue over the smallest positive one that was resolved; NaN if none is positive.

        Over the eigenvalues found and, where there is one, the density; a lower bound of the true one, because
        eigenvalues below ``resolution`` cannot be told from zero.
        """
        known = self.eigenvalues
        if self.density is not None:
            known = torch.cat([known, self.density.support])
        positive = known[known > self.resolution]
        return float(positive.max() / positive.min()) if len(positive) else float("nan")

    @property
    def negative_share(self) -> float:
        """``Σ |λ| over λ < 0`` divided by ``Σ |λ|``, from the density; NaN without one."""
        if self.density is None:
            return float("nan")
        mass = self.density.support.abs() * self.density.weights
        total = float(mass.sum())
        return float(mass[self.density.support < 0].sum()) / total if total > 0 else 0.0
