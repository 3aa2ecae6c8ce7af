"""One computation of a spectrum: from the probe's losses to the values that are logged."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_gradtools._lightning.fail_safe import tell
from lightning_gradtools.curvature import Budget, Spectrum
from lightning_gradtools.curvature.budget import Meter
from lightning_gradtools.curvature.composition import Preconditioned, adam_preconditioner
from lightning_gradtools.curvature.hessian_spectrum import operator_spectrum
from lightning_gradtools.curvature.method import hessian_operator
from lightning_gradtools.curvature.operator import CurvatureOperator
from lightning_gradtools.curvature.stability import stability_bound
from lightning_gradtools.distributed import RankFailure, mean_over_ranks_of, on_all_ranks
from lightning_gradtools.gradients.layers import LayerGrouping

Loss = Callable[[], Tensor]

_KEYS = {"trace": "curvature/trace", "density": "curvature/density, with its trace,"}


@dataclass(frozen=True)
class SpectrumSettings:
    """What is asked of each computation; the arguments of ``HessianSpectrum``, the numbers of products resolved."""

    top_k: int
    rtol: float
    which: str
    trace: int
    density: int
    stability: bool
    per_layer: bool
    method: str
    memory: int | None
    budget: Budget
    seed: int


@dataclass(frozen=True)
class Probe:
    """What is measured.

    Attributes:
        losses: each the loss [] of one probe batch.
        parameters: by name, those whose Hessian it is.
        optimizer: whose bound of stability counts, or None.
        ranks: "one"; "replicas", each with probe batches of its own, under DDP; or "shards" of the parameters.
    """

    losses: Sequence[Loss]
    parameters: Mapping[str, Tensor]
    optimizer: Optimizer | None
    ranks: str

    @property
    def several(self) -> bool:
        """Whether ranks work together."""
        return self.ranks != "one"

    @property
    def average(self) -> bool:
        """Whether products are averaged over ranks."""
        return self.ranks == "replicas"


class SpectrumMeasurement:
    """Computes spectra of one run, each from the last one's eigenvectors.

    Args:
        settings: what is asked.
        progress: makes, for one computation, what is told of its products and its relative error so far.
    """

    def __init__(self, settings: SpectrumSettings, progress: Callable[[], Callable[[int, float], None]]) -> None:
        self._settings, self._progress = settings, progress
        self._vectors: Tensor | None = None
        self._preconditioned_vectors: Tensor | None = None
        self._lost: set[str] = set()  # parts whose failure was told

    @property
    def vectors(self) -> tuple[Tensor | None, Tensor | None]:
        """What the next computation starts from: eigenvectors of the Hessian, and of that in the optimizer's metric."""
        return self._vectors, self._preconditioned_vectors

    @vectors.setter
    def vectors(self, vectors: tuple[Tensor | None, Tensor | None]) -> None:
        self._vectors, self._preconditioned_vectors = vectors

    def measure(self, probe: Probe) -> tuple[Spectrum, dict[str, float]]:
        """Return the spectrum, without vectors, and the values by logged key.

        If what goes beyond the spectrum fails, its keys are absent, and that is told once.
        """
        settings, begun = self._settings, time.perf_counter()
        generator = torch.Generator().manual_seed(settings.seed)
        operator = self._operator(probe, list(probe.parameters.values()))
        found = operator_spectrum(
            operator,
            top_k=settings.top_k,
            which=settings.which,
            meter=Meter(operator, settings.budget, begun, shared=probe.several),
            trace_products=settings.trace,
            density_products=settings.density,
            start=_fitting(self._vectors, operator),
            max_basis=max(60, settings.trace // 2),
            memory=settings.memory,
            progress=self._progress(),
            rtol=settings.rtol,
            generator=generator,
            keep_vectors=True,
            on_failure=lambda part, error: self._lose(_KEYS[part], error),
        )
        self._vectors = found.eigenvectors
        found = replace(found, eigenvectors=None)
        values = _values(found)
        if settings.stability and probe.optimizer is not None:
            sharpness = values.get("curvature/sharpness")
            values |= self._part(
                "curvature/stability", partial(self._stability, probe, operator, sharpness, begun, generator)
            )
        values["curvature/gradients"] = operator.gradients_spent
        del operator  # and its graph
        if settings.per_layer:
            values |= self._per_layer(probe, generator)
        values["curvature/seconds"] = time.perf_counter() - begun
        return found, values

    def _operator(self, probe: Probe, parameters: list[Tensor]) -> CurvatureOperator:
        settings = self._settings
        return hessian_operator(
            probe.losses, parameters, method=settings.method, memory=settings.memory, average_ranks=probe.average
        )

    def _stability(
        self,
        probe: Probe,
        operator: CurvatureOperator,
        sharpness: float | None,
        begun: float,
        generator: torch.Generator,
    ) -> dict[str, float]:
        """Return sharpness × learning rate and its share of the optimizer's bound, in the optimizer's metric."""
        assert probe.optimizer is not None
        bound = stability_bound(probe.optimizer)
        if bound is None:
            return {}
        found: dict[str, float] = {}
        if bound.preconditioned:
            metric = self._metric(probe, operator, probe.optimizer)
            steep = operator_spectrum(
                metric,
                top_k=1,
                which="algebraic",
                meter=Meter(metric, self._settings.budget, begun, shared=probe.several),
                start=_fitting(self._preconditioned_vectors, metric),
                memory=self._settings.memory,
                rtol=self._settings.rtol,
                generator=generator,
                keep_vectors=True,
            )
            self._preconditioned_vectors = steep.eigenvectors
            sharpness = float(steep.eigenvalues[0]) if len(steep.eigenvalues) else None
            if sharpness is not None:
                found["curvature/preconditioned_sharpness"] = sharpness
        if sharpness is not None:
            found["curvature/sharpness_times_lr"] = sharpness * bound.learning_rate
            found["curvature/stability"] = sharpness * bound.learning_rate / bound.bound
        return found

    def _metric(self, probe: Probe, operator: CurvatureOperator, optimizer: Optimizer) -> Preconditioned:
        def here() -> Preconditioned:
            return Preconditioned(operator, adam_preconditioner(operator.space, optimizer))

        return on_all_ranks(here, operator.device) if probe.several else here()

    def _part(self, name: str, compute: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Return what ``compute`` returns, or nothing if it fails; ranks that work together fail together."""
        try:
            return compute()
        except Exception as error:
            self._lose(name, error)
            return {}

    def _lose(self, name: str, error: Exception) -> None:
        """Go on without what failed with ``error``, and tell it once."""
        if isinstance(error, RankFailure) and error.interrupted:
            raise error
        if name not in self._lost:
            self._lost.add(name)
            tell(f"HessianSpectrum: {name} is absent where it fails: {type(error).__name__}: {str(error)[:200]}")

    def _per_layer(self, probe: Probe, generator: torch.Generator) -> dict[str, float]:
        """Return the top eigenvalue of each layer's block."""
        settings, grouping = self._settings, LayerGrouping("module")
        layers: dict[str, list[Tensor]] = {}
        for name, parameter in probe.parameters.items():
            layers.setdefault(grouping.layer(name) or name, []).append(parameter)
        values: dict[str, float] = {}

        def top(key: str, parameters: list[Tensor]) -> dict[str, float]:
            block = self._operator(probe, parameters)
            meter = Meter(block, settings.budget, time.perf_counter(), shared=probe.several)
            found = operator_spectrum(
                block,
                top_k=1,
                rtol=settings.rtol,
                which=settings.which,
                meter=meter,
                memory=settings.memory,
                generator=generator,
            )
            return {key: float(found.eigenvalues[0])} if len(found.eigenvalues) else {}

        for layer, parameters in layers.items():
            key = f"curvature/top_eigenvalue/{layer}"
            values |= self._part(key, partial(top, key, parameters))
        return values


def probe_loss(losses: Sequence[Loss], device: torch.device, average: bool) -> float:
    """Return the mean loss of the probe batches, over ranks too if they have batches of their own."""

    def here() -> Tensor:
        with torch.no_grad():
            return torch.stack([loss() for loss in losses]).mean().to(device, torch.float32)

    return float(mean_over_ranks_of(here, torch.zeros((), device=device)) if average else here())


def _fitting(vectors: Tensor | None, operator: CurvatureOperator) -> Tensor | None:
    """Return ``vectors`` to start from, unless parameters were frozen or unfrozen since."""
    return vectors if vectors is not None and vectors.shape[1] == operator.shape[1] else None


def _values(found: Spectrum) -> dict[str, float]:
    values = {f"curvature/eigenvalue_{i}": value for i, value in enumerate(found.eigenvalues.tolist())}
    optional = {
        "sharpness": float(found.eigenvalues.max()) if len(found.eigenvalues) else math.nan,
        "condition_number": found.condition_number,
        "gradient_cosine": found.gradient_cosine,
        "negative_share": found.negative_share,
        "trace": math.nan if found.trace is None else found.trace.value,
        "trace_error": math.nan if found.trace is None else found.trace.standard_error,
    }
    if not optional["sharpness"] > 0:
        optional["sharpness"] = math.nan
    values |= {f"curvature/{name}": value for name, value in optional.items() if math.isfinite(value)}
    values["curvature/converged"] = float(found.converged)
    return values
