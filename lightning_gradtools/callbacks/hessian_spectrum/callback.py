"""The Hessian's spectrum while a network trains."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightning_gradtools._lightning.batches import kept
from lightning_gradtools._lightning.fail_safe import Observer, restore_state, tell
from lightning_gradtools._lightning.full_precision import HALF, Precision, frozen_in_float32
from lightning_gradtools._lightning.loop import is_accumulating, log_folder, logging_step, publish
from lightning_gradtools._lightning.module import plain_name
from lightning_gradtools._lightning.probe import training_loss, undisturbed, without_autocast
from lightning_gradtools._lightning.repeated_warnings import once_each
from lightning_gradtools._lightning.strategy import require_automatic_optimization, require_whole_gradients
from lightning_gradtools.arguments import ArgumentError, described, integer, number, one_of
from lightning_gradtools.callbacks.hessian_spectrum.measurement import (
    Probe,
    SpectrumMeasurement,
    SpectrumSettings,
    probe_loss,
)
from lightning_gradtools.callbacks.hessian_spectrum.overhead import OverheadBudget
from lightning_gradtools.callbacks.hessian_spectrum.probe_batches import ProbeBatches
from lightning_gradtools.callbacks.hessian_spectrum.progress import progress
from lightning_gradtools.callbacks.hessian_spectrum.rank_state import on_device, portable
from lightning_gradtools.curvature import Budget, Spectrum
from lightning_gradtools.curvature.method import METHODS
from lightning_gradtools.curvature.stability import stability_bound
from lightning_gradtools.distributed import RankFailure, is_distributed, meet, on_all_ranks, reshard
from lightning_gradtools.interrupts import held_interrupts
from lightning_gradtools.reporting.figures.spectral_density import spectral_density
from lightning_gradtools.reporting.loggers import log_figure, log_scalars


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

    An eigenvalue that the Hessian has several times is logged once, and the next distinct one after it
    (``hessian_spectrum(multiplicity=True)`` counts copies).

    ``trainer.callback_metrics`` holds all of them too. Densities, eigenvalues and bounds of each computation
    are kept as arrays in ``<log folder>/hessian_spectrum/step_<n>.npz`` if ``density``. Steps are Lightning's
    own logging steps.

    The loss is that which ``training_step`` returns for the probe batches, the same throughout, so that what
    changes is the model: the first ones with a loss that training passes, or that validation (its sanity check
    too) passes, copied then. No loader is asked for a batch, so nothing is computed before they have passed.
    Modules of dropout and batch normalisation are in evaluation mode meanwhile, all others in their own; random
    numbers of torch, as of ``F.dropout``, are the same in each evaluation. It runs outside autocast, in float32; so do
    frozen weights in half precision, which take three times their room then.
    Each computation starts from the last one's eigenvectors.

    A checkpoint holds the probe batches of each rank and those eigenvectors, so that a resumed run measures the
    same loss and logs what the whole run would have. Batches of other than tensors, numbers, text, lists, tuples
    and dicts, and more than 64 MiB on a rank, are left out: then it takes new batches, or starts anew, and differs
    within ``rtol``. When ``max_overhead`` has it compute is a matter of the clock, in any run.

    Training is bit-identical with and without it: weights, gradients, buffers, metrics, random state and logs
    of training are as they were. If a computation fails it warns once and disables itself, on all
    ranks; where only the bound, the trace, the density or a layer's block fails, its keys are absent, which is
    told once. One that is interrupted (Ctrl-C) is given up, and training goes on.

    Under DDP each rank has probe batches of its own, and the Hessian is that of their mean. Under FSDP2
    products are finite differences on sharded vectors; there the layers themselves wait for other ranks, so that what
    raises within a layer on one rank alone, as a kernel that finds no memory, leaves the others waiting until the
    process group's timeout, as it does in training. A compiled module is probed eagerly. Flash attention
    has no second derivative, so the probe uses the mathematical form of attention.

    Args:
        every_n_steps: optimizer steps between computations.
        every_n_epochs: the same in epochs.
        max_overhead: largest share of the training time that computations may take; they plan themselves.
            Exactly one of these three is given; if none is, ``max_overhead`` is 0.02.
        top_k: how many eigenvalues.
        rtol: their relative error.
        which: ``"magnitude"`` or ``"algebraic"``: which eigenvalues.
        trace: whether to estimate the trace, or with how many products in all; True is 100.
        density: whether to estimate the density, or with how many products in all; True is 500.
        stability: whether to compare learning rate × sharpness with the optimizer's bound. For Adam this
            needs one more eigenvalue. Of several parameter groups the one nearest its bound counts.
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
        ArgumentError: for a value that cannot work; and at fit start for manual optimisation, what is trained in half
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
        self._plans_itself = every_n_steps is None and every_n_epochs is None
        self.top_k = integer("top_k", top_k, at_least=1)
        self.rtol = number("rtol", rtol, above=0, below=1)
        self.which = one_of("which", which, ["magnitude", "algebraic"])
        self.trace = 100 if trace is True else integer("trace", trace if trace else 0, at_least=0)
        self.density = 500 if density is True else integer("density", density if density else 0, at_least=0)
        self.stability, self.per_layer = stability, per_layer
        self.num_batches = integer("num_batches", num_batches, at_least=1)
        self.source = one_of("source", source, ["train", "val"])
        self.method = one_of("method", method, ["auto", *METHODS])
        self.memory = None if memory is None else integer("memory", memory, at_least=1)
        self.budget = Budget(seconds=budget_seconds)
        self.math_attention = math_attention
        self.seed = integer("seed", seed, at_least=0)
        self.reset()
        self.release()
        self.start_fit()

    def reset(self) -> None:
        self.latest: Spectrum | None = None
        self.history: list[tuple[int, dict[str, float]]] = []
        self.seconds = 0.0
        self._warned = False

    def __repr__(self) -> str:
        max_overhead = self.max_overhead if self._plans_itself else None
        return described(self, max_overhead=max_overhead, budget_seconds=self.budget.seconds)

    def state_dict(self) -> dict[str, Any]:
        return {"version": 1, "history": self.history, "warned": self._warned, "ranks": [self.state_of_rank()]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        readers: dict[str, Callable[[Any], None]] = {
            "history": self._load_history,
            "warned": self._load_warned,
            "ranks": self.load_states_of_ranks,
        }
        restore_state(type(self).__name__, state_dict, readers)

    def _load_history(self, history: Sequence[tuple[int, dict[str, float]]]) -> None:
        self.history = [(step, values) for step, values in history]

    def _load_warned(self, warned: bool) -> None:
        self._warned = warned

    def state_of_rank(self) -> dict[str, Any] | None:
        """Return the batches and where the next computation starts from, if a checkpoint can well hold them."""
        state = {"moved": [], "vectors": self._measurement.vectors}  # releases that looked for moved weights read it
        found: dict[str, Any] | None = portable(self._kept.state_dict() | state)
        return found

    def release(self) -> None:
        self._kept = ProbeBatches(self.num_batches)
        self._measurement = SpectrumMeasurement(self._settings(), progress)
        self._budget: OverheadBudget | None = None

    def start_fit(self) -> None:
        self._asked = (-1, False)  # the step that was last asked for, and whether it was due
        self._met_at = -1
        self._given: set[tuple[type[Warning], str]] = set()  # warnings of computations

    def _settings(self) -> SpectrumSettings:
        return SpectrumSettings(
            top_k=self.top_k,
            rtol=self.rtol,
            which=self.which,
            trace=self.trace,
            density=self.density,
            stability=self.stability,
            per_layer=self.per_layer,
            method=self.method,
            memory=self.memory,
            budget=self.budget,
            seed=self.seed,
        )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what cannot work."""
        name = type(pl_module).__name__
        require_automatic_optimization(
            pl_module,
            "HessianSpectrum runs training_step for its loss alone, and this one would change the weights",
        )
        require_whole_gradients(trainer, "HessianSpectrum")
        if is_param_in_hook_signature(pl_module.training_step, "dataloader_iter", explicit=True):
            raise ArgumentError(
                f"{name}.training_step takes dataloader_iter: HessianSpectrum needs one that takes a batch"
            )
        _trained(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count the time, and say if there is no bound to compare with."""
        if self.stability and trainer.optimizers and stability_bound(trainer.optimizers[0]) is None:
            rank_zero_info(
                "HessianSpectrum: curvature/stability and curvature/sharpness_times_lr are absent, as no bound of"
                f" stability is known for {type(trainer.optimizers[0]).__name__} with its settings"
            )
        self._budget = OverheadBudget(self.max_overhead, logging_step(trainer), self.num_batches, pl_module.device)
        own = self.own_state(trainer)
        if own is not None:
            here = partial(on_device, pl_module.device)
            self._kept.load_state_dict(own, here)
            self._measurement.vectors = tuple(map(here, own["vectors"]))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keep the first batches that pass and have a loss, so that the loader need not be asked for them."""
        if self.source == "train":
            self._kept.before_step(batch, batch_idx)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep the first batches of the validation data, of the sanity check too."""
        if self.source == "val":
            self._kept.in_validation(batch, batch_idx, dataloader_idx)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take what there is, if the validation data have fewer batches than were asked for."""
        if self.source == "val" and not trainer.sanity_checking:
            self._kept.close()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Compute, if this batch took a step that is one to."""
        self._kept.after_step(has_loss=(outputs.get("loss") if isinstance(outputs, dict) else outputs) is not None)
        if not is_accumulating(trainer) and self._is_due(trainer, pl_module):
            self._compute(trainer, pl_module, logging_step(trainer))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute, if this epoch is one to; of a loader with fewer batches than were asked for take what there is."""
        if self.source == "train":
            self._kept.close()
        if self._epoch_is_due(trainer):
            self._compute(trainer, pl_module, logging_step(trainer))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what it has taken."""
        assert self._budget is not None
        publish(trainer, {"curvature/overhead": self._budget.share})
        if not self._kept.complete:
            rank_zero_info(f"HessianSpectrum: nothing was computed, as no batch passed (source={self.source!r})")
        elif self._plans_itself and not self.history:
            rank_zero_info(
                f"HessianSpectrum: this run was too short for a computation within max_overhead={self.max_overhead:g}"
                " of its time; raise it, or give every_n_steps"
            )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.release()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.release()

    def take_part(self, hook: str, trainer: Trainer, pl_module: LightningModule) -> None:
        step = logging_step(trainer)
        if hook == "on_train_batch_end":
            due = not is_accumulating(trainer) and self._is_due(trainer, pl_module)
        else:
            due = hook == "on_train_epoch_end" and self._epoch_is_due(trainer)
        if due and self._met_at != step:
            self._met_at = step
            self.guard.agree(meet("", True, pl_module.device).anyone_failed)

    def _is_due(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        """Say whether to compute after this step. Asking may communicate, so a step is asked for once."""
        step = logging_step(trainer)  # counted from 0
        if self._asked[0] != step:
            due = self.every_n_steps is not None and (step + 1) % self.every_n_steps == 0
            if self._plans_itself:
                if self._budget is None:  # this rank failed before there was one
                    self._budget = OverheadBudget(self.max_overhead, step, self.num_batches, pl_module.device)
                due = self._budget.due(step)
            self._asked = step, due
        return self._asked[1]

    def _epoch_is_due(self, trainer: Trainer) -> bool:
        return self.every_n_epochs is not None and (trainer.current_epoch + 1) % self.every_n_epochs == 0

    def _compute(self, trainer: Trainer, pl_module: LightningModule, step: int) -> None:
        self._met_at = step
        ready = self._kept.complete
        meeting = meet(str(ready), False, pl_module.device)
        if meeting.anyone_failed:
            self.guard.agree(True)
            return
        if not (meeting.same and ready):  # a rank has not all its batches yet
            return
        assert self._budget is not None
        start = time.perf_counter()
        found: tuple[Spectrum, dict[str, float]] | None = None
        failed = False
        try:
            with ExitStack() as aside:
                precision = on_all_ranks(partial(self._put_aside, trainer, pl_module, aside), pl_module.device)
                found = self._measure(trainer, pl_module, precision)
        except KeyboardInterrupt:
            pass
        except RankFailure as failure:
            failed = not failure.interrupted
        except Exception as error:
            if trainer.world_size == 1:
                raise
            self.guard.fail("_compute", error)
            failed = True
        if meet("", failed, pl_module.device).anyone_failed:
            self.guard.agree(True)
            return
        seconds = time.perf_counter() - start
        self.seconds += seconds
        self._budget.charge(seconds, step)
        if found is None:
            if trainer.is_global_zero:
                tell("HessianSpectrum: this computation was interrupted; training goes on (again to stop it)")
            return
        self.latest, values = found
        self._warn_beyond_bound(trainer, values)
        self.history.append((step, values))
        publish(trainer, values)
        log_scalars(trainer, values, step)
        if self.latest.density is not None and trainer.is_global_zero:
            self._save(self.latest, log_folder(trainer) / "hessian_spectrum" / f"step_{step}.npz")
            log_figure(trainer, "curvature/density", partial(spectral_density, self.latest), step)

    def _put_aside(self, trainer: Trainer, pl_module: LightningModule, aside: ExitStack) -> Precision:
        """Put training aside until ``aside`` is closed; return what to compute losses in."""
        # On one rank alone an interrupt would leave the others waiting: it is held back until they meet.
        aside.enter_context(held_interrupts() if trainer.world_size > 1 else nullcontext())
        aside.enter_context(once_each(self._given))
        precision = aside.enter_context(frozen_in_float32(pl_module))
        aside.enter_context(undisturbed(pl_module))  # after it: what it puts back before each loss are float32 weights
        aside.enter_context(self._attention())
        return precision

    def _measure(
        self, trainer: Trainer, pl_module: LightningModule, precision: Precision
    ) -> tuple[Spectrum, dict[str, float]]:
        parameters = _trained(trainer, pl_module)
        sharded = any(map(is_distributed, parameters.values()))
        several = "shards" if sharded else "replicas"
        probe = Probe(
            losses=[partial(self._loss, pl_module, precision, sharded, *batch) for batch in self._kept.batches],
            parameters=parameters,
            optimizer=trainer.optimizers[0] if trainer.optimizers else None,
            ranks=several if trainer.world_size > 1 else "one",
        )
        loss = probe_loss(probe.losses, pl_module.device, probe.several)
        reshard(pl_module)
        spectrum, values = self._measurement.measure(probe)
        return spectrum, {**values, "curvature/probe_loss": loss}

    def _loss(
        self,
        pl_module: LightningModule,
        precision: Precision,
        sharded: bool,
        batch: Any,
        batch_idx: int,
    ) -> Tensor:
        """Return the loss of a batch, at the same random numbers each time.

        Where layers talk to other ranks for their weights, all ranks come that far before any goes on.
        """
        torch.manual_seed(self.seed)
        prepared = partial(kept, batch)
        here = on_all_ranks(prepared, pl_module.device) if sharded else prepared()
        with without_autocast(pl_module), precision():
            return training_loss(pl_module, here, batch_idx)

    def _attention(self) -> AbstractContextManager[None]:
        kernel: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
        return kernel if self.math_attention else nullcontext()

    def _warn_beyond_bound(self, trainer: Trainer, values: dict[str, float]) -> None:
        """Warn once, where the loss rises beyond the bound of stability."""
        if not self.history or self._warned or values.get("curvature/stability", 0.0) <= 1:
            return
        before, now = self.history[-1][1]["curvature/probe_loss"], values["curvature/probe_loss"]
        if now > before:
            self._warned = True
            if trainer.is_global_zero:
                tell(
                    f"HessianSpectrum: learning rate × sharpness is {values['curvature/stability']:.2f} of its bound"
                    f" of stability, and the probe's loss rose from {before:.4g} to {now:.4g}: lower the learning rate"
                )

    @staticmethod
    def _save(found: Spectrum, path: Path) -> None:
        import numpy as np

        density = found.density
        if density is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}")  # a kill in the middle leaves no half file under its name
        np.savez(
            part,
            support=density.support.numpy(),
            weights=density.weights.numpy(),
            eigenvalues=found.eigenvalues.numpy(),
            bounds=found.bounds.numpy(),
        )
        part.replace(path)


def _trained(trainer: Trainer, pl_module: LightningModule) -> dict[str, Tensor]:
    """Return the parameters that are trained, by name.

    Raises:
        ArgumentError: if there is none, or one is in half precision, or a frozen one is so and sharded.
    """
    found: dict[str, Tensor] = {}
    for name, parameter in pl_module.named_parameters():
        if parameter.dtype in HALF and (parameter.requires_grad or is_distributed(parameter)):
            kind = "trained" if parameter.requires_grad else "frozen and sharded"
            raise ArgumentError(
                f"precision={trainer.precision}: {plain_name(name)} is {kind} in {parameter.dtype}, which is too coarse"
                " for curvature; HessianSpectrum needs it in float32 or float64, as under bf16-mixed"
            )
        if parameter.requires_grad:
            found[plain_name(name)] = parameter
    if not found:
        raise ArgumentError(f"{type(pl_module).__name__}: HessianSpectrum needs a parameter that requires a gradient")
    return found
