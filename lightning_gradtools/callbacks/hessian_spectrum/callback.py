"""The Hessian's spectrum while a network trains."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightning_gradtools._lightning.fail_safe import Observer
from lightning_gradtools._lightning.loop import is_accumulating, logging_step, publish
from lightning_gradtools._lightning.probe import first_batches, training_loss, undisturbed
from lightning_gradtools.arguments import ArgumentError, integer, number, one_of
from lightning_gradtools.callbacks.hessian_spectrum.overhead import Spacing
from lightning_gradtools.curvature import Budget, Spectrum
from lightning_gradtools.curvature.budget import Meter
from lightning_gradtools.curvature.composition import Preconditioned, adam_preconditioner
from lightning_gradtools.curvature.hessian_spectrum import operator_spectrum
from lightning_gradtools.curvature.method import METHODS, hessian_operator
from lightning_gradtools.curvature.operator import CurvatureOperator
from lightning_gradtools.curvature.stability import stability_bound
from lightning_gradtools.distributed import mean_over_ranks
from lightning_gradtools.gradients.layers import LayerGrouping
from lightning_gradtools.reporting.figures.spectral_density import spectral_density
from lightning_gradtools.reporting.loggers import log_figure, log_scalars

_SLOW = 5.0  # seconds after which a computation reports its progress


class HessianSpectrum(Observer):
    r"""Logs the top eigenvalues of the loss's Hessian, and how near training is to its edge of stability.

    ===============================================  ============================================  ============
    key                                              value (unit)                                  when
    ===============================================  ============================================  ============
    ``curvature/eigenvalue_0``, ``_1``, ...          eigenvalues, largest magnitude first          always
                                                     (loss per squared unit of parameter)
    ``curvature/sharpness``                          the largest positive one                      if any is
    ``curvature/condition_number``                   largest over smallest positive eigenvalue     if two are
                                                     found; a lower bound
    ``curvature/gradient_cosine``                    length of the gradient's part in the span of  always
                                                     the top eigenvectors, over its own
    ``curvature/sharpness_times_lr``                 that product, with the preconditioned         SGD, Adam
                                                     sharpness for Adam
    ``curvature/stability``                          the same over its bound: 2 for gradient       SGD, Adam
                                                     descent, 2 + 2β with momentum, 38 for Adam;
                                                     above 1 training oscillates
    ``curvature/preconditioned_sharpness``           of the Hessian in Adam's metric               Adam
    ``curvature/trace``                              sum of all eigenvalues                        ``trace`` or
                                                                                                   ``density``
    ``curvature/trace_error``                        its standard error                            the same
    ``curvature/negative_share``                     negative part of Σ \|λ\|                       ``density``
    ``curvature/density``                            figure, in TensorBoard only                   ``density``
    ``curvature/top_eigenvalue/<layer>``             of the layer's own block                      ``per_layer``
    ``curvature/probe_loss``                         loss of the probe batches                     always
    ``curvature/gradients``                          cost, in gradients                            always
    ``curvature/seconds``                            cost, in seconds                              always
    ``curvature/converged``                          1 if the tolerance was met, else 0            always
    ``curvature/overhead``                           share of the training time that all           at the end, in
                                                     computations took                             the metrics
                                                                                                   only
    ===============================================  ============================================  ============

    ``trainer.callback_metrics`` holds all of them too. Densities, eigenvalues and bounds of each computation
    are kept as arrays in ``<log folder>/hessian_spectrum/step_<n>.npz`` if ``density``. Steps are Lightning's
    own logging steps.

    The loss is that which ``training_step`` returns for the probe batches: the first ones of the loader, the
    same throughout, so that what changes is the model. The module is in evaluation mode meanwhile: dropout
    off, batch statistics frozen. It runs outside autocast, in float32. Each computation starts from the last
    one's eigenvectors.

    Training is bit-identical with and without it: weights, gradients, buffers, metrics, random state and logs
    of training are as they were. If a computation fails it warns once and steps aside; one that is
    interrupted (Ctrl-C) is given up, and training goes on.

    Under DDP each rank has probe batches of its own, and the Hessian is that of their mean. Under FSDP2
    products are finite differences on sharded vectors. A compiled module is probed eagerly. Flash attention
    has no second derivative, so the probe uses the mathematical form of attention.

    Args:
        every_n_steps: optimizer steps between computations.
        every_n_epochs: the same in epochs.
        max_overhead: largest share of the training time that computations may take; they space themselves.
            Exactly one of these three is given; if none is, ``max_overhead`` is 0.02.
        top_k: how many eigenvalues.
        rtol: their relative error.
        which: ``"magnitude"`` or ``"algebraic"``: which eigenvalues.
        trace: whether to estimate the trace, or with how many products in all; True is 100.
        density: whether to estimate the density, or with how many products in all; True is 500.
        stability: whether to compare learning rate × sharpness with the optimizer's bound. For Adam this
            needs one more eigenvalue. With several learning rates the largest counts.
        per_layer: whether to compute the top eigenvalue of each layer's block of the Hessian too.
        num_batches: probe batches; fewer if the loader has not as many.
        source: ``"train"`` or ``"val"``: the loader of the probe batches.
        method: as of :func:`~lightning_gradtools.curvature.hessian_spectrum`; ``latest.method`` says what it was.
        memory: the same.
        budget_seconds: limit of one computation; None is none.
        math_attention: whether attention takes its mathematical form in the probe; False leaves it, and then
            products are finite differences where flash attention is used.
        seed: of the random vectors.

    Raises:
        ArgumentError: for a value that cannot work; and at fit start for manual optimisation, weights in half
            precision, and strategies that keep weights where no product can reach them (FSDP1, DeepSpeed).

    Attributes:
        latest: the last :class:`~lightning_gradtools.curvature.Spectrum`, without vectors.
        history: (step, values by key) of each computation.
        seconds: time spent on all computations.
    """

    def __init__(
        self,
        every_n_steps: int | None = None,
        every_n_epochs: int | None = None,
        max_overhead: float | None = None,
        *,
        top_k: int = 5,
        rtol: float = 1e-3,
        which: str = "magnitude",
        trace: bool | int = False,
        density: bool | int = False,
        stability: bool = True,
        per_layer: bool = False,
        num_batches: int = 1,
        source: str = "train",
        method: str = "auto",
        memory: int | None = None,
        budget_seconds: float | None = None,
        math_attention: bool = True,
        seed: int = 0,
    ) -> None:
        given = [value for value in (every_n_steps, every_n_epochs, max_overhead) if value is not None]
        if len(given) > 1:
            raise ArgumentError("every_n_steps, every_n_epochs, max_overhead: must be only one of them")
        if every_n_steps is not None:
            integer("every_n_steps", every_n_steps, at_least=1)
        if every_n_epochs is not None:
            integer("every_n_epochs", every_n_epochs, at_least=1)
        self.every_n_steps, self.every_n_epochs = every_n_steps, every_n_epochs
        self.max_overhead = number("max_overhead", 0.02 if max_overhead is None else max_overhead, above=0, below=1)
        self._spaces_itself = every_n_steps is None and every_n_epochs is None
        self.top_k = integer("top_k", top_k, at_least=1)
        self.rtol = number("rtol", rtol, above=0, below=1)
        self.which = one_of("which", which, ["magnitude", "algebraic"])
        self.trace = 100 if trace is True else integer("trace", int(trace), at_least=0)
        self.density = 500 if density is True else integer("density", int(density), at_least=0)
        self.stability, self.per_layer = stability, per_layer
        self.num_batches = integer("num_batches", num_batches, at_least=1)
        self.source = one_of("source", source, ["train", "val"])
        self.method = one_of("method", method, ["auto", *METHODS])
        self.memory = None if memory is None else integer("memory", memory, at_least=1)
        self.budget = Budget(seconds=budget_seconds)
        self.math_attention = math_attention
        self.seed = integer("seed", seed, at_least=0)
        self.latest: Spectrum | None = None
        self.history: list[tuple[int, dict[str, float]]] = []
        self.seconds = 0.0
        self.release()

    def release(self) -> None:
        self._batches: list[Any] = []
        self._vectors: Tensor | None = None
        self._preconditioned_vectors: Tensor | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what cannot work."""
        name = type(pl_module).__name__
        if not pl_module.automatic_optimization:
            raise ArgumentError(
                f"{name}.automatic_optimization=False: HessianSpectrum runs training_step for its loss alone,"
                " and this one would change the weights"
            )
        if isinstance(trainer.strategy, (FSDPStrategy, DeepSpeedStrategy)):
            raise ArgumentError(
                f"strategy={type(trainer.strategy).__name__}: HessianSpectrum needs whole or DTensor parameters:"
                " a single device, DDP, or ModelParallelStrategy (FSDP2)"
            )
        halves = {p.dtype for p in pl_module.parameters() if p.dtype in (torch.float16, torch.bfloat16)}
        if halves:
            raise ArgumentError(
                f"precision={trainer.precision}: weights in {halves.pop()} are too coarse for curvature;"
                " HessianSpectrum needs them in float32 or float64, as under bf16-mixed"
            )
        if not any(parameter.requires_grad for parameter in pl_module.parameters()):
            raise ArgumentError(f"{name}: HessianSpectrum needs a parameter that requires a gradient")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fix the probe batches."""
        self._batches = first_batches(trainer, pl_module, self.num_batches, self.source)
        if not self._batches:
            raise ArgumentError(f"source={self.source!r}: has no batch")
        self._folder = Path(trainer.log_dir or trainer.default_root_dir) / "hessian_spectrum"
        self._spacing = Spacing(self.max_overhead, logging_step(trainer), self.num_batches)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Compute, if this batch took a step that is one to."""
        if is_accumulating(trainer):
            return
        step = logging_step(trainer)  # counted from 0
        if self.every_n_steps is not None:
            due = (step + 1) % self.every_n_steps == 0
        else:
            due = self._spaces_itself and self._spacing.due(step)
        if due:
            self._compute(trainer, pl_module, step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute, if this epoch is one to."""
        if self.every_n_epochs is not None and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._compute(trainer, pl_module, logging_step(trainer))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what it has taken."""
        publish(trainer, {"curvature/overhead": self._spacing.share})
        if self._spaces_itself and not self.history:
            rank_zero_info(
                f"HessianSpectrum: this run was too short for a computation within max_overhead={self.max_overhead:g}"
                " of its time; raise it, or give every_n_steps"
            )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.release()

    def _compute(self, trainer: Trainer, pl_module: LightningModule, step: int) -> None:
        start = time.perf_counter()
        try:
            with undisturbed(pl_module), self._attention():
                values = self._measure(trainer, pl_module)
        except KeyboardInterrupt:
            rank_zero_warn("HessianSpectrum: this computation was interrupted; training goes on (again to stop it)")
            return
        finally:
            seconds = time.perf_counter() - start
            self.seconds += seconds
            self._spacing.charge(seconds, step)
        self._warn_beyond_bound(values)
        self.history.append((step, values))
        log_scalars(trainer, values, step)
        publish(trainer, values)
        if self.density and self.latest is not None and trainer.is_global_zero:
            self._save(self.latest, step)
            log_figure(trainer, "curvature/density", partial(spectral_density, self.latest), step)

    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        begun = time.perf_counter()
        generator = torch.Generator().manual_seed(self.seed)
        losses = [partial(training_loss, pl_module, batch) for batch in self._batches]
        with torch.no_grad():
            probe_loss = torch.stack([loss() for loss in losses]).mean()
        _reshard(pl_module)
        parameters = [parameter for parameter in pl_module.parameters() if parameter.requires_grad]
        sharded = any(isinstance(parameter, DTensor) for parameter in parameters)
        several = trainer.world_size > 1
        operator = self._operator(losses, parameters, several and not sharded)
        found = operator_spectrum(
            operator,
            top_k=self.top_k,
            which=self.which,
            meter=Meter(operator, self.budget, begun, shared=several),
            trace_products=self.trace,
            density_products=self.density,
            start=self._vectors,
            max_basis=max(60, self.trace // 2),
            progress=_progress(begun),
            rtol=self.rtol,
            generator=generator,
            keep_vectors=True,
        )
        self._vectors = found.eigenvectors
        self.latest = found = replace(found, eigenvectors=None)
        values = _values(found)
        values["curvature/probe_loss"] = float(mean_over_ranks(probe_loss) if several else probe_loss)
        bound = stability_bound(trainer.optimizers[0]) if self.stability and trainer.optimizers else None
        if bound is not None:
            sharpness = values.get("curvature/sharpness")
            if bound.preconditioned:
                inner = adam_preconditioner(operator.space, trainer.optimizers[0])
                metric = Preconditioned(operator, inner)
                steep = operator_spectrum(
                    metric,
                    top_k=1,
                    which="algebraic",
                    meter=Meter(metric, self.budget, begun, shared=several),
                    start=self._preconditioned_vectors,
                    rtol=self.rtol,
                    generator=generator,
                    keep_vectors=True,
                )
                self._preconditioned_vectors = steep.eigenvectors
                sharpness = float(steep.eigenvalues[0]) if len(steep.eigenvalues) else None
                if sharpness is not None:
                    values["curvature/preconditioned_sharpness"] = sharpness
            if sharpness is not None:
                values["curvature/sharpness_times_lr"] = sharpness * bound.learning_rate
                values["curvature/stability"] = sharpness * bound.learning_rate / bound.bound
        values["curvature/gradients"] = operator.gradients_spent
        del operator  # and its graph
        if self.per_layer:
            values |= self._per_layer(pl_module, losses, several and not sharded, several, generator)
        values["curvature/seconds"] = time.perf_counter() - begun
        return values

    def _operator(
        self, losses: Sequence[Callable[[], Tensor]], parameters: list[Any], average: bool
    ) -> CurvatureOperator:
        return hessian_operator(losses, parameters, method=self.method, memory=self.memory, average_ranks=average)

    def _per_layer(
        self,
        pl_module: LightningModule,
        losses: Sequence[Callable[[], Tensor]],
        average: bool,
        several: bool,
        generator: torch.Generator,
    ) -> dict[str, float]:
        grouping = LayerGrouping("module")
        layers: dict[str, list[Tensor]] = {}
        for name, parameter in pl_module.named_parameters():
            if parameter.requires_grad:
                layers.setdefault(grouping.layer(name) or name, []).append(parameter)
        values = {}
        for layer, parameters in layers.items():
            block = self._operator(losses, parameters, average)
            meter = Meter(block, self.budget, time.perf_counter(), shared=several)
            found = operator_spectrum(
                block, top_k=1, rtol=self.rtol, which=self.which, meter=meter, generator=generator
            )
            if len(found.eigenvalues):
                values[f"curvature/top_eigenvalue/{layer}"] = float(found.eigenvalues[0])
        return values

    def _attention(self) -> AbstractContextManager[None]:
        kernel: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
        return kernel if self.math_attention else nullcontext()

    def _warn_beyond_bound(self, values: dict[str, float]) -> None:
        if not self.history or values.get("curvature/stability", 0.0) <= 1:
            return
        before, now = self.history[-1][1]["curvature/probe_loss"], values["curvature/probe_loss"]
        if now > before:
            rank_zero_warn(
                f"HessianSpectrum: learning rate × sharpness is {values['curvature/stability']:.2f} of its bound of"
                f" stability, and the probe's loss rose from {before:.4g} to {now:.4g}: lower the learning rate"
            )

    def _save(self, found: Spectrum, step: int) -> None:
        import numpy as np

        density = found.density
        if density is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        np.savez(
            self._folder / f"step_{step}.npz",
            support=density.support.numpy(),
            weights=density.weights.numpy(),
            eigenvalues=found.eigenvalues.numpy(),
            bounds=found.bounds.numpy(),
        )


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


def _reshard(pl_module: LightningModule) -> None:
    """Give back the whole weights that FSDP2 keeps after a forward pass, in the place of their shards."""
    for module in pl_module.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _progress(begun: float) -> Callable[[int, float], None]:
    """Return a report of a long computation: one line each time that its duration has doubled."""
    due = _SLOW

    def report(products: int, error: float) -> None:
        nonlocal due
        elapsed = time.perf_counter() - begun
        if elapsed >= due:
            due = 2 * elapsed
            rank_zero_info(f"HessianSpectrum: {products} products in {elapsed:.0f} s, relative error {error:.1g}")

    return report
