"""Names the sick layer while a network trains."""

import math
import sys
from functools import wraps
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from lightning_gradtools._lightning.fail_safe import Observer
from lightning_gradtools._lightning.gradient_pass import gradient_pass, optimizer_parameters
from lightning_gradtools._lightning.loop import is_accumulating, logging_step, publish, run_lengths
from lightning_gradtools._lightning.module import parameter_names
from lightning_gradtools._lightning.strategy import loss_scale_of
from lightning_gradtools.activations import StepTap
from lightning_gradtools.activations.dead_units import PATIENCE
from lightning_gradtools.arguments import integer, one_of
from lightning_gradtools.callbacks.pathology_detector.nonfinite_origin import Origin, find_in_parameters, search
from lightning_gradtools.callbacks.pathology_detector.replay import dump
from lightning_gradtools.callbacks.pathology_detector.step_sample import SampledParameters, StepSample, UnitBook
from lightning_gradtools.diagnosis import Finding, Kind, Severity
from lightning_gradtools.diagnosis.finding_tracker import FindingTracker
from lightning_gradtools.diagnosis.observation import History, NonfiniteEvent, Observation
from lightning_gradtools.diagnosis.rules import diagnose
from lightning_gradtools.distributed import gather_objects, world_size
from lightning_gradtools.reporting.findings import append_jsonl, card, console_table, one_line
from lightning_gradtools.reporting.loggers import log_scalars, log_text

_ACTIONS = ("log", "warn", "stop", "raise")
_EARLY = (0, 1, 2, 4, 8, 12, 16)  # steps sampled besides the regular ones: most faults are there from the start
_BURST = 16  # samples taken in a row, every other step, to tell dead units from sparse ones


class PathologyError(RuntimeError):
    """A finding at a severity whose policy is ``"raise"``."""


class PathologyDetector(Observer):
    """Watches a training run and says which layer is sick, on what evidence, and what to do.

    On sampled steps it hooks the modules and follows activation functions, for that step only: the norm of the loss
    gradient with respect to each layer's output (so that each layer's factor in the chain rule is seen), outputs,
    gradients, weights, updates, and which units fired. The rules (``diagnosis/rules/``, one pathology a file) judge a
    layer by what it does to training, not by one number: a layer's gradient may be as small as it likes while the loss
    falls. A healthy run yields nothing at ``warning`` or above.

    ==============================  ==========================================================  =================
    key                             value (unit)                                                when
    ==============================  ==========================================================  =================
    ``dead_units/<layer>``          share of units silent on ``patience`` samples in a row      every sampled step
    ``saturated_units/<layer>``     share of units flat on 90% of samples                       every sampled step
    ``backward_gain/<layer>``       norm of the loss gradient at the layer's output / that at   every sampled step
                                    the next layer's
    ``diagnosis/skill``             1 - loss / loss of the best constant prediction             if the loss is of a
                                                                                                known kind
    ``diagnosis/findings``          findings at ``warning`` or above that stand                 every sampled step
    ==============================  ==========================================================  =================

    ``trainer.callback_metrics`` holds ``diagnosis/findings`` (for sweeps that prune), ``diagnosis/criticals`` and, once
    it stopped the run, ``diagnosis/stop_reason``: the position of the finding's kind in
    :class:`~lightning_gradtools.diagnosis.Kind`, counted from 1; 0 while it has not.

    A NaN or infinity in the loss or in a gradient is traced to its module by running that step again on a copy of the
    module. Where data is on the CPU this is checked every step; on an accelerator that would make the host wait, so
    there the loss is looked at when the next step is sampled, which gives step and batch but not the module, unless
    ``check_every_step=True``. Under fp16, gradients that overflow while the loss scale is searched are not findings.

    Weights after training are bit for bit those without it, and if it fails it warns once and steps aside. The one
    exception is ``torch.compile``: a compiled network has no hooks, so sampled steps run uncompiled, whose roundings
    differ from those of compiled code.

    With several optimizers or manual optimisation there is no one loss that has to fall: rules that need it are silent.

    Args:
        every_n_steps: optimizer steps between sampled ones; twice as many from step ``10 * every_n_steps`` on, when
            most of what goes wrong has gone wrong. The first 17 steps and doubtful cases are sampled more often.
        patience: samples in a row on which a unit must be silent to be called dead.
        on_info: what a finding of this severity does: ``"log"`` (TensorBoard, ``findings.jsonl``, the table at the
            end), ``"warn"`` (once, and log), ``"stop"`` (end the run gracefully, checkpoints kept, and warn) or
            ``"raise"``.
        on_warning: the same.
        on_critical: the same.
        dirpath: folder of ``findings.jsonl``; None: the logger's folder, or no file without a logger.
        dump_dir: folder for the batch, weights and module of a non-finite step; None: no dump. Replay one with
            ``python -m lightning_gradtools.callbacks.pathology_detector.replay <file>``.
        check_every_step: whether to look for non-finite values at every step; None: where that costs no waiting.
        table: whether to print a table of the findings at the end of the run.

    Raises:
        ArgumentError: if an argument is none of the above.
        PathologyError: while training, for a finding whose policy is ``"raise"``.

    Attributes:
        findings: what was found, in order of first appearance.
        history: the observations that the rules judge.
        stop_reason: why it stopped the run; "" if it did not.
    """

    deliberate = (PathologyError,)

    def __init__(
        self,
        every_n_steps: int = 20,
        *,
        patience: int = PATIENCE,
        on_info: str = "log",
        on_warning: str = "warn",
        on_critical: str = "warn",
        dirpath: str | None = None,
        dump_dir: str | None = None,
        check_every_step: bool | None = None,
        table: bool = True,
    ) -> None:
        self.every_n_steps = integer("every_n_steps", every_n_steps, at_least=1)
        self.patience = integer("patience", patience, at_least=1)
        policies = {"on_info": on_info, "on_warning": on_warning, "on_critical": on_critical}
        actions = [one_of(name, action, _ACTIONS) for name, action in policies.items()]
        self.policy = dict(zip(Severity, actions, strict=True))
        self.dirpath = dirpath
        self.dump_dir = dump_dir
        self.check_every_step = check_every_step
        self.table = table
        self.stop_reason = ""
        self.history = History()
        self._ledger = FindingTracker()
        self._book: UnitBook | None = None
        self._saved_book: dict[str, Any] | None = None
        self._moments: dict[str, Tensor] = {}
        self._sample: StepSample | None = None
        self._stance: Any = None
        self._original_step: Any = None
        self._losses: list[tuple[int, int, Tensor]] = []  # optimizer step, batch index, loss
        self._window: list[Tensor] = []  # losses of the micro-batches of a step
        self._events: list[NonfiniteEvent] = []
        self._nonfinite_now = False
        self._batch: Any = None
        self._names: dict[int, str] = {}
        self._burst = 0
        self._next_burst = 0
        self._single_loss = True
        self._raise: Finding | None = None

    @property
    def findings(self) -> list[Finding]:
        return self._ledger.findings

    # --- state
    # ---------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        book = self._book
        return {
            "history": self.history.as_dict(),
            "ledger": self._ledger.state_dict(),
            # not yet brought to the host
            "losses": [(step, index, loss.item()) for step, index, loss in self._losses],
            "moments": {name: value.cpu() for name, value in self._moments.items()},
            "book": book
            and {
                "sites": book.sites,
                "samples": book.samples,
                "dead": book.dead.state_dict(),
                "flat": book.flat.state_dict(),
            },
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = History.from_dict(state_dict["history"])
        self._ledger.load_state_dict(state_dict["ledger"])
        self._moments = dict(state_dict["moments"])
        self._saved_book = state_dict["book"]
        self._losses = [(step, index, torch.tensor(loss)) for step, index, loss in state_dict["losses"]]

    def release(self) -> None:
        self._end_sample()
        self._losses.clear()
        self._window.clear()
        self._batch = None

    # --- hooks
    # ---------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_sample()
        self.stop_reason = ""
        self._raise = None
        self._names = {id_: name.rpartition(".")[0] for id_, name in parameter_names(pl_module).items()}
        self._single_loss = pl_module.automatic_optimization and len(trainer.optimizers) == 1
        self._publish(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.history.planned_steps = run_lengths(trainer, pl_module)[0]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._batch = batch
        step = logging_step(trainer)
        if self._sample is None and self._samples_at(step):
            self._begin_sample(pl_module, step)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if self._checks(loss) and not math.isfinite(loss.detach().sum().item()):
            self._nonfinite(trainer, pl_module, lambda: find_in_parameters(pl_module, trainer.optimizers))
        elif self._checks(loss):
            self._nonfinite_now = False

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if loss_scale_of(trainer) is None and not self._nonfinite_now:
            gradient = _sentinel(optimizer)
            if gradient is not None and self._checks(gradient) and not math.isfinite(gradient.sum().item()):
                self._nonfinite(trainer, pl_module, lambda: None)
        if self._sample is not None:
            self._sample.trainable += [p for p in optimizer_parameters(optimizer) if p.requires_grad]
            first = len(self.history.observations) < 2
            seen = gradient_pass(trainer, optimizer, self)
            self._sample.parameters.append(SampledParameters.before_step(seen, first))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._end_batch(trainer, pl_module, outputs, batch_idx)
        if self._raise is not None:  # not from within a hook that steps aside
            finding, self._raise = self._raise, None
            raise PathologyError(one_line(finding))

    def _end_batch(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch_idx: int) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor) and self._single_loss:
            self._window.append(loss.detach())
        if is_accumulating(trainer):
            return
        step = logging_step(trainer)
        if self._window:
            # Lightning has divided each by the number of micro-batches; the last window may have fewer.
            mean = self._window[0]
            if len(self._window) > 1 or trainer.accumulate_grad_batches > 1:
                mean = torch.stack(self._window).sum() * (trainer.accumulate_grad_batches / len(self._window))
            self._losses.append((step, batch_idx, mean))
            self._window.clear()
        self._batch = None
        if self._sample is not None:
            self._flush(trainer, pl_module)
        elif self._events and world_size() == 1:
            self._judge(trainer, step)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.release()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.table and self.findings and trainer.is_global_zero:
            sys.stdout.write(f"\n{console_table(self.findings)}\n")
        if self.stop_reason:
            rank_zero_info(f"PathologyDetector stopped the run: {self.stop_reason}")

    # --- sampling
    # ---------------------------------------------------------------------------------------------

    def _samples_at(self, step: int) -> bool:
        interval = self.every_n_steps * (1 if step < 10 * self.every_n_steps else 2)
        regular = step % interval == 0 or step in _EARLY
        return regular or (self._burst > 0 and step % 2 == 0)

    def _begin_sample(self, pl_module: LightningModule, step: int) -> None:
        tap = StepTap(pl_module, signals=step == 0)
        self._sample = StepSample(step, tap)
        tap.attach()
        if _is_compiled(pl_module):
            self._stance = torch.compiler.set_stance("force_eager")
        original = pl_module.training_step
        self._original_step = (pl_module, pl_module.__dict__.get("training_step"))

        @wraps(original)  # Lightning looks at the signature to know what to pass
        def tapped(*args: Any, **kwargs: Any) -> Any:
            with tap:
                return original(*args, **kwargs)

        pl_module.__dict__["training_step"] = tapped

    def _end_sample(self) -> None:
        self._take_taps_off()
        self._sample = None

    def _take_taps_off(self) -> None:
        if self._sample is not None:
            self._sample.tap.detach()
        if self._original_step is not None:
            pl_module, own = self._original_step
            if own is None:
                pl_module.__dict__.pop("training_step", None)
            else:
                pl_module.__dict__["training_step"] = own
            self._original_step = None
        if self._stance is not None:
            torch.compiler.set_stance("default")
            self._stance = None

    def _flush(self, trainer: Trainer, pl_module: LightningModule) -> None:
        sample = self._sample
        assert sample is not None
        self._end_sample()
        sample.finish(pl_module.device)
        sites = sample.sites
        if sites and (self._book is None or not self._book.fits(sites)):
            self._book = self._new_book(sites)
        rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
        events = torch.tensor([float(len(self._events))], device=pl_module.device)
        observation, losses, (waiting,) = sample.observe(
            self._names,
            [loss for *_, loss in self._losses],
            self._book if sites else None,
            self._moments if self._single_loss else {},
            max((float(rate) for rate in rates), default=0.0),
            events,
            frozenset(self._names.get(id(each), "") for each in sample.trainable),
        )
        late = []
        for (step, batch_index, _), loss in zip(self._losses, losses, strict=True):
            if not math.isfinite(loss) and not waiting and self.history.last_nonfinite < step - 1:
                late.append(
                    NonfiniteEvent(step, batch_index, 0, "unknown", "", "check_every_step=True names the module")
                )
            self.history.add_loss(step, loss)
        self._losses.clear()
        self._events += late[:1]
        if waiting:
            found = [event for part in gather_objects(self._events) for event in part]  # type: ignore[attr-defined]
            self._events = sorted(found, key=lambda event: (event.step, event.direction == "unknown", event.rank))[:1]
        self.history.add(observation)
        self._plan_burst(observation)
        self._judge(trainer, sample.step)
        self._log(trainer, observation)

    def _new_book(self, sites: list[Any]) -> UnitBook:
        book, saved, self._saved_book = UnitBook(sites, self.patience), self._saved_book, None
        if saved and [tuple(site) for site in saved["sites"]] == book.sites:
            book.samples = saved["samples"]
            book.dead.load_state_dict(saved["dead"])
            book.flat.load_state_dict(saved["flat"])
        return book

    def _plan_burst(self, observation: Observation) -> None:
        """Sample more often while a layer may have died: one batch cannot tell dead units from sparse ones."""
        if self._burst > 0:
            self._burst -= 1
            return
        doubtful = any(2 * each.silent > each.units and 2 * each.dead <= each.units for each in observation.activations)
        if doubtful and observation.step >= self._next_burst:
            self._burst = _BURST
            self._next_burst = 2 * observation.step + 10 * self.every_n_steps

    # --- non-finite values
    # ---------------------------------------------------------------------------------------------

    def _checks(self, tensor: Tensor) -> bool:
        return tensor.device.type == "cpu" if self.check_every_step is None else self.check_every_step

    def _nonfinite(self, trainer: Trainer, pl_module: LightningModule, look_first: Any) -> None:
        """Note the first non-finite value of a stretch, and trace it."""
        if self._nonfinite_now:
            return
        self._nonfinite_now = True
        # A copy of the module must not have them. The sample itself goes on: the other ranks will wait for it.
        self._take_taps_off()
        step, index = logging_step(trainer), trainer.fit_loop.batch_idx
        origin = look_first()
        if origin is None:
            try:
                origin = search(pl_module, self._batch)
            except Exception as error:  # a second run of user code may fail where the first did not
                origin = Origin("unknown", detail=f"the step cannot be run again: {error}")
        detail = origin.detail
        if self.dump_dir is not None:
            path = Path(self.dump_dir) / f"nonfinite_step_{step}_rank_{trainer.global_rank}.pt"
            held = dump(path, pl_module, self._batch, {"step": step, "batch_index": index, "layer": origin.layer})
            detail += f"; {held} in {path}"
        self._events.append(NonfiniteEvent(step, index, trainer.global_rank, origin.direction, origin.layer, detail))

    # --- verdicts
    # ---------------------------------------------------------------------------------------------

    def _judge(self, trainer: Trainer, step: int) -> None:
        self.history.nonfinite += self._events
        if self._events:
            self.history.last_nonfinite = max(self.history.last_nonfinite, step)
        self._events = []
        before = list(self.findings)
        news = self._ledger.update(diagnose(self.history), step)
        if news:
            self._announce(trainer, news, step)
        if self.findings != before:
            self._publish(trainer)

    def _announce(self, trainer: Trainer, news: list[Finding], step: int) -> None:
        folder = self.dirpath or (trainer.log_dir if trainer.loggers else None)
        if trainer.is_global_zero:
            if folder is not None:
                append_jsonl(Path(folder) / "findings.jsonl", news)
            log_text(trainer, "diagnosis/findings", card(self.findings), step)
        for finding in news:
            action = self.policy[finding.severity]
            if action != "log":
                rank_zero_warn(f"PathologyDetector, {one_line(finding)}")
            if action == "stop" and not self.stop_reason:
                self.stop_reason = f"{finding.kind} in {finding.layer or 'the whole model'}: {finding.message}"
                self._publish(trainer)
                trainer.callback_metrics["diagnosis/stop_reason"] = torch.tensor(
                    float(list(Kind).index(finding.kind) + 1)
                )
                trainer.should_stop = True
            if action == "raise" and self._raise is None:
                self._raise = finding

    def _publish(self, trainer: Trainer) -> None:
        standing = [each for each in self.findings if each.resolved_at is None]
        counts = {
            "diagnosis/findings": float(sum(each.severity >= Severity.WARNING for each in standing)),
            "diagnosis/criticals": float(sum(each.severity == Severity.CRITICAL for each in standing)),
        }
        publish(trainer, counts)
        trainer.callback_metrics.setdefault("diagnosis/stop_reason", torch.tensor(0.0))

    def _log(self, trainer: Trainer, observation: Observation) -> None:
        if not trainer.loggers:
            return
        scalars = {"diagnosis/findings": float(trainer.callback_metrics["diagnosis/findings"])}
        if observation.skill is not None:
            scalars["diagnosis/skill"] = observation.skill
        for each in observation.activations:
            kind, count = ("saturated", each.saturated) if each.function in _TWO_SIDED else ("dead", each.dead)
            scalars[f"{kind}_units/{each.name}"] = count / each.units
        chain = [layer for layer in observation.layers if layer.backward]
        for layer, after in pairwise(chain):
            scalars[f"backward_gain/{layer.name}"] = (layer.backward or 0.0) / (after.backward or math.inf)
        log_scalars(trainer, scalars, observation.step)


_TWO_SIDED = ("tanh", "hardtanh", "sigmoid", "hardsigmoid", "softmax")


def _sentinel(optimizer: Optimizer) -> Tensor | None:
    """Return the gradient that the backward pass reached last, which inherits what went wrong before it.

    A vector where there is one among the first parameters, because it is read every step.
    """
    gradients = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            gradient = parameter.grad
            if gradient is not None and type(gradient) is Tensor and gradient.layout == torch.strided:
                gradients.append(gradient)
                if len(gradients) == 2:
                    return min(gradients, key=Tensor.numel)
    return gradients[0] if gradients else None


def _is_compiled(module: torch.nn.Module) -> bool:
    return getattr(module, "_compiler_ctx", None) is not None or any(
        type(each).__name__ == "OptimizedModule" or each._compiled_call_impl is not None for each in module.modules()
    )
