"""Names the sick layer while a network trains."""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_gradtools._lightning.batches import has_known_length, repeats_one_batch
from lightning_gradtools._lightning.carried_gradients import CarriedGradients
from lightning_gradtools._lightning.fail_safe import Observer, restore_state, tell
from lightning_gradtools._lightning.gradient_pass import gradient_pass, optimizer_parameters
from lightning_gradtools._lightning.loop import is_accumulating, log_folder, logging_step, publish, run_lengths
from lightning_gradtools._lightning.modes import evaluating_by_mistake
from lightning_gradtools._lightning.module import Patch, eagerly, parameter_names, patched, plain_modules, plain_name
from lightning_gradtools._lightning.schedule_lengths import is_scheduled, schedule_lengths
from lightning_gradtools._lightning.strategy import Replicas, replicas, require_whole_gradients
from lightning_gradtools._lightning.unoptimized import Unoptimized
from lightning_gradtools.activations import StepTap
from lightning_gradtools.activations.contract_tap import ContractTap
from lightning_gradtools.activations.dead_units import PATIENCE
from lightning_gradtools.activations.step_tap import TappedActivation
from lightning_gradtools.arguments import described, integer
from lightning_gradtools.callbacks.pathology_detector.contract_sample import ContractSample
from lightning_gradtools.callbacks.pathology_detector.loop_sample import LoopSample
from lightning_gradtools.callbacks.pathology_detector.nonfinite_watch import NonfiniteWatch
from lightning_gradtools.callbacks.pathology_detector.observed_scalars import observed_scalars
from lightning_gradtools.callbacks.pathology_detector.policy import PathologyError, Policy
from lightning_gradtools.callbacks.pathology_detector.sampling import SamplingSchedule
from lightning_gradtools.callbacks.pathology_detector.step_sample import StepSample
from lightning_gradtools.callbacks.pathology_detector.unit_statistics import UnitStatistics
from lightning_gradtools.diagnosis import Finding, Kind, Severity
from lightning_gradtools.diagnosis.finding import Remedy
from lightning_gradtools.diagnosis.finding_tracker import FindingTracker
from lightning_gradtools.diagnosis.observation import History, Observation
from lightning_gradtools.diagnosis.rules import diagnose
from lightning_gradtools.distributed import gather_objects, meet, world_size
from lightning_gradtools.pytree import tree_leaves
from lightning_gradtools.reporting.findings import (
    FindingsFile,
    card,
    console_table,
    html_table,
    one_line,
    roots,
    verdict_line,
)
from lightning_gradtools.reporting.loggers import log_scalars, log_text


class PathologyDetector(Observer):
    """Watches a training run and says which layer is sick, on what evidence, and what to do.

    On sampled steps it hooks the modules and follows activation functions, for that step only: the norm of the loss
    gradient with respect to each layer's output (so that each layer's factor in the chain rule is seen), outputs,
    gradients, weights, updates, and which units fired. The rules (``diagnosis/rules/``, one pathology a file) judge a
    layer by what it does to training, not by one number: a layer's gradient may be as small as it likes while the loss
    falls. A healthy run yields nothing at ``warning`` or above.

    The first samples of a fit also show its contracts: which functions put out what a loss of
    ``torch.nn.functional`` is given and whether it asks for that, what comes to the first layer, and whether batches
    differ. What they show stands to the end of the fit.

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

    Weights after training are bit for bit those without it, and nothing of it is ever put on the module. If it fails it
    warns once and disables itself, on all ranks at the next sample. The one exception is ``torch.compile``: a compiled
    network has no hooks, so sampled steps run uncompiled, whose roundings differ from those of compiled code.

    Of the training loop itself it sees, without a threshold to choose, gradients that are not cleared, modules that are
    trained in evaluation mode, parameters in no optimizer, replicas that differ, updates that are lost, a learning rate
    of zero, schedules that are counted in one unit and stepped in another, and a gradient that is zero everywhere.

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
        ArgumentError: if an argument is none of the above; at fit start, if the strategy keeps whole gradients out of a
            callback's reach (FSDP1, DeepSpeed).
        PathologyError: while training, for a finding whose policy is ``"raise"``.

    Attributes:
        findings: what was found, in order of first appearance; it begins anew with another run.
        history: the observations that the rules judge; the same.
        stop_reason: why it stopped the run; "" if it did not.
        overrides_for: set by an application with a command line: how a remedy is given there.
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
        self.policy = Policy(on_info, on_warning, on_critical)
        self.on_info, self.on_warning, self.on_critical = on_info, on_warning, on_critical
        self.dirpath = dirpath
        self.dump_dir = dump_dir
        self.check_every_step = check_every_step
        self.print_table = table
        self.overrides_for: Callable[[Remedy], tuple[str, ...]] | None = None
        self._patches: list[Patch] = []
        self._carried = CarriedGradients()
        self._parameters: dict[str, Tensor] = {}
        self._sample: StepSample | None = None
        self._window: list[Tensor] = []  # losses of the micro-batches of a step
        self._losses: list[tuple[int, int, Tensor]] = []  # optimizer step, batch index, loss
        self.reset()
        self.start_fit()

    # --- what is kept
    # ---------------------------------------------------------------------------------------------

    def reset(self) -> None:
        self.stop_reason = ""
        self.history = History()
        self._tracker = FindingTracker()
        self._schedule = SamplingSchedule(self.every_n_steps)
        self._statistics: UnitStatistics | None = None
        self._saved_statistics: dict[str, Any] | None = None
        self._moments: dict[str, Tensor] = {}
        self._losses.clear()
        self._watch = NonfiniteWatch(self.check_every_step, self.dump_dir)
        self._fatal: Finding | None = None
        self._file: FindingsFile | None = None
        self._saved_mark: Mapping[str, Any] | None = None

    def start_fit(self) -> None:
        self._replicas = Replicas()
        self._unoptimized = Unoptimized()
        self._met_at = -1
        self._told_unseen = False
        self._contracts_asked, self._contracts_anew = 0, True
        self._watch.start_fit()

    def release(self) -> None:
        while self._patches:
            self._patches.pop().remove()
        self._carried.clear()
        self._parameters.clear()
        if self._sample is not None:
            self._sample.tap.remove()
            self._sample = None
        self._window.clear()
        self._watch.batch = None

    @property
    def findings(self) -> list[Finding]:
        return self._tracker.findings

    def state_dict(self) -> dict[str, Any]:
        return {
            "version": 1,
            "history": self.history.as_dict(),
            "ledger": self._tracker.state_dict(),
            "cadence": self._schedule.state_dict(),
            "lasting": self._watch.lasting,
            "file": self._file and self._file.mark(),
            "moments": {name: value.cpu() for name, value in self._moments.items()},
            "book": self._statistics.state_dict() if self._statistics is not None else self._saved_statistics,
            **self.state_of_rank(),
        }

    def state_of_rank(self) -> dict[str, Any]:
        """Return what ranks bring together at the next sample only."""
        return {"losses": [(step, index, loss.item()) for step, index, loss in self._losses]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        restore_state(
            type(self).__name__,
            state_dict,
            {
                "history": self._load_history,
                "ledger": self._tracker.load_state_dict,
                "losses": self._load_losses,
                "moments": self._moments.update,
                "book": self._load_statistics,
                "cadence": self._schedule.load_state_dict,
                "lasting": self._load_lasting,
                "file": self._load_mark,
                "ranks": self.load_states_of_ranks,
            },
            optional=("cadence", "lasting", "file", "ranks"),
        )

    def _load_history(self, state: dict[str, Any]) -> None:
        self.history = History.from_dict(state)

    def _load_losses(self, state: Sequence[tuple[int, int, float]]) -> None:
        self._losses = [(step, index, torch.tensor(loss)) for step, index, loss in state]

    def _load_statistics(self, state: dict[str, Any] | None) -> None:
        self._saved_statistics = state

    def _load_lasting(self, lasting: bool) -> None:
        self._watch.lasting = lasting

    def _load_mark(self, mark: Mapping[str, Any] | None) -> None:
        self._saved_mark = mark

    # --- hooks
    # ---------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        require_whole_gradients(trainer, "PathologyDetector")
        self.stop_reason, self._stop_number = "", 0.0
        self._names = {id_: name.rpartition(".")[0] for id_, name in parameter_names(pl_module).items()}
        self._single_loss = pl_module.automatic_optimization and len(trainer.optimizers) == 1
        self._publish(trainer)
        self._patches = [
            patched(trainer.strategy, "training_step", partial(self._training_step, pl_module)),
            patched(trainer.strategy, "optimizer_step", partial(self._optimizer_step, trainer)),
        ]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.history.planned_steps = run_lengths(trainer, pl_module)[0]
        self.history.schedules = schedule_lengths(trainer, pl_module)
        self.history.scheduled = is_scheduled(trainer)
        self._parameters = {plain_name(name): parameter for name, parameter in pl_module.named_parameters()}
        self._replicas = replicas(trainer)
        own = self.own_state(trainer, joined=_mean_losses)
        if own is not None:
            self._load_losses(own["losses"])
        if trainer.is_global_zero and (self.dirpath or trainer.loggers):
            self._file = FindingsFile(Path(self.dirpath or log_folder(trainer)) / "findings.jsonl")
            self._file.go_on_from(self._saved_mark)
        self._saved_mark = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._watch.batch = batch
        step = logging_step(trainer)
        if self._sample is not None and self._sample.step != step:
            self._sample = None  # its step was never taken
        if self._sample is None and self._schedule.due(step):
            modules = plain_modules(pl_module)
            contracts = self._contracts_to_see(trainer, modules)
            tap = StepTap(
                modules,
                signals=step == 0,
                guard=self.guard.wrap,
                contracts=None if contracts is None else contracts.tap,
            )
            tap.collecting = not pl_module.automatic_optimization  # where Lightning does not say when backward begins
            names = {id(parameter): name for name, parameter in self._parameters.items()}
            self._sample = StepSample(step, tap, pl_module.device, self._replicas, LoopSample(names), contracts)
        if self._sample is not None and self._sample.contracts is not None:
            self._sample.contracts.batch_index = batch_idx
            if not repeats_one_batch(trainer):
                self._sample.contracts.tap.add_batch(tree_leaves(batch))

    def _contracts_to_see(self, trainer: Trainer, modules: Mapping[str, nn.Module]) -> ContractSample | None:
        """Return what hears of the contracts of this step, if it is one of the first ones of the fit to be sampled."""
        if self._contracts_asked >= History.FIRST:
            return None
        self._contracts_asked += 1
        return ContractSample(ContractTap(modules), sized=has_known_length(trainer))

    def _training_step(
        self, pl_module: LightningModule, original: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Run the strategy's training step, tapped if it is sampled."""
        sample = self._sample
        if sample is None:
            return original(*args, **kwargs)
        taps = ExitStack()
        try:
            self.guard.run(self._open_taps, taps, pl_module, sample.tap)
            return original(*args, **kwargs)
        finally:
            with self.guard.section("closing the taps"):
                taps.close()

    def _optimizer_step(
        self, trainer: Trainer, original: Callable[..., Any], optimizer: Optimizer, *args: Any, **kwargs: Any
    ) -> Any:
        """Take the strategy's optimizer step, and look at what it leaves if the next one is sampled."""
        output = original(optimizer, *args, **kwargs)
        self.guard.run(self._after_optimizer_step, trainer, optimizer)
        return output

    def _after_optimizer_step(self, trainer: Trainer, optimizer: Optimizer) -> None:
        if self._schedule.due(logging_step(trainer) + 1):
            self._carried.after_step(optimizer)

    @staticmethod
    def _open_taps(taps: ExitStack, pl_module: LightningModule, tap: StepTap) -> None:
        taps.enter_context(eagerly(pl_module))
        taps.enter_context(tap)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if self._sample is not None:
            self._sample.tap.collecting = True
        self._carried.before_backward()
        self._watch.look_at_loss(trainer, pl_module, loss)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._sample is not None:
            self._sample.tap.collecting = not pl_module.automatic_optimization
        self._carried.after_backward()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        seen = None
        self._carried.before_step(optimizer, by_hand=not pl_module.automatic_optimization)
        if self._sample is not None:
            left_out = self._unoptimized.find(trainer, self._parameters.values(), self._sample.step)
            self._sample.loop.see_unoptimized(left_out)
            self._sample.trainable += [p for p in optimizer_parameters(optimizer) if p.requires_grad]
            seen = gradient_pass(trainer, optimizer, self)
            self._sample.before_step(optimizer, seen, look_for_symmetry=len(self.history.observations) < 2)
        self._watch.look_at_gradients(trainer, pl_module, optimizer, seen)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._carried.stop()  # Lightning clears gradients before it validates

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
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
        self._watch.batch = None
        sample, self._sample = self._sample, None
        if sample is not None:
            self._finish(trainer, pl_module, sample)
        elif self._watch.events and world_size() == 1:
            self._judge(trainer, step)
        if self._fatal is not None:
            raise PathologyError(one_line(self._fatal))

    def take_part(self, hook: str, trainer: Trainer, pl_module: LightningModule) -> None:
        if hook != "on_train_batch_end" or is_accumulating(trainer):
            return
        step = logging_step(trainer)
        if self._schedule.due(step) and self._met_at != step:
            self._met_at = step
            self.guard.agree(meet("", True, pl_module.device).anyone_failed)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.release()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.release()
        if trainer.is_global_zero:
            if self.print_table and self.findings:
                sys.stdout.write(f"\n{self.table()}\n")
            if self.stop_reason:
                rank_zero_info(f"PathologyDetector stopped the run: {self.stop_reason}")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.release()

    # --- a sample
    # ---------------------------------------------------------------------------------------------

    def _finish(self, trainer: Trainer, pl_module: LightningModule, sample: StepSample) -> None:
        """Bring a sample to the host, judge it and log it."""
        self._look_at_loop(pl_module, sample)
        self._measure(sample)
        self._met_at = sample.step
        meeting = meet(repr(sample.layout()), False, pl_module.device)
        if meeting.anyone_failed:
            self.guard.agree(True)
            return
        if not meeting.same:
            sample.keep(gather_objects(sample.layout()))  # type: ignore[arg-type]
            self._measure(sample)
        rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
        found = sample.observe(
            self._names,
            max((float(rate) for rate in rates), default=0.0),
            self._statistics_of(sample.sites),
            self._moments if self._single_loss else {},
        )
        self._schedule.feed(found.observation)
        self._moments = sample.moments
        losses = [(step, batch, loss) for (step, batch, _), loss in zip(self._losses, found.losses, strict=True)]
        self._losses.clear()
        self._watch.look_at_sample(trainer, found.observation, losses, self.history, found.events)
        for step, _, loss in losses:
            self.history.add_loss(step, loss)
        self.history.add(found.observation)
        if found.contracts is not None:
            self.history.add_contracts(found.contracts, anew=self._contracts_anew)
            self._contracts_anew = False
        self._judge(trainer, sample.step)
        self._tell_unseen(trainer, sample, found.observation)
        self._log(trainer, found.observation)

    def _tell_unseen(self, trainer: Trainer, sample: StepSample, observation: Observation) -> None:
        """Say once which layers get gradients without having been seen to run for them."""
        unseen = [each.name for each in observation.layers if each.gradient and each.backward is None]
        unseen = [name for name in unseen if name in sample.tap.unseen]
        if unseen and not self._told_unseen and trainer.is_global_zero:
            tell(
                f"PathologyDetector: activations of {unseen[0]}{' and others' if len(unseen) > 1 else ''} are not seen,"
                " because reentrant checkpointing runs them without recording gradients; checkpoint(...,"
                " use_reentrant=False) shows them"
            )
        self._told_unseen = self._told_unseen or bool(unseen)

    def _look_at_loop(self, pl_module: LightningModule, sample: StepSample) -> None:
        trained = {id(each): each for part in sample.parameters.values() for each in part.seen.local.parameters}
        evaluating = evaluating_by_mistake(pl_module, sample.tap.evaluating, trained)
        sample.loop.see_modes(evaluating, sum(each.numel() for each in trained.values()))
        sample.loop.see_carried(self._carried.take())

    def _measure(self, sample: StepSample) -> None:
        sample.measure([loss for *_, loss in self._losses], len(self._watch.events))

    def _statistics_of(self, sites: Sequence[TappedActivation]) -> UnitStatistics | None:
        """Return the statistics of these activations, begun anew where they are others than before."""
        if not sites:
            return None
        if self._statistics is None or not self._statistics.fits(sites):
            self._statistics = UnitStatistics(sites, self.patience, self._replicas.shards)
            saved, self._saved_statistics = self._saved_statistics, None
            if saved:
                self._statistics.load_state_dict(saved)
        return self._statistics

    # --- verdicts
    # ---------------------------------------------------------------------------------------------

    def _judge(self, trainer: Trainer, step: int) -> None:
        """Ask the rules, decide, and only then tell: what can fail on one rank must not part their ways."""
        events, self._watch.events = self._watch.events, []
        self.history.nonfinite += events
        if events:
            self.history.last_nonfinite = max(self.history.last_nonfinite, step)
        news = self._tracker.update(map(self._advised, diagnose(self.history)), step)
        verdict = self.policy.verdict(news)
        self._fatal = verdict.fail
        if verdict.stop is not None and not self.stop_reason:
            place = verdict.stop.layer or "the whole model"
            self.stop_reason = f"{verdict.stop.kind} in {place}: {verdict.stop.message}"
            self._stop_number = float(list(Kind).index(verdict.stop.kind) + 1)
            trainer.should_stop = True
        self._publish(trainer)
        if trainer.is_global_zero:
            for finding in verdict.warn:
                tell(f"PathologyDetector, {one_line(finding)}")
        if news:
            self._record(trainer, news, step)

    def _advised(self, finding: Finding) -> Finding:
        """Return ``finding`` with remedies as the application at hand takes them."""
        if self.overrides_for is None:
            return finding
        remedies = (replace(remedy, overrides=self.overrides_for(remedy)) for remedy in finding.remedy)
        return replace(finding, remedy=tuple(remedies))

    def _record(self, trainer: Trainer, news: list[Finding], step: int) -> None:
        if self._file is not None:
            self._file.append(news)
        log_text(trainer, "diagnosis/findings", card(self.findings), step)

    def _counts(self) -> dict[str, float]:
        standing = [each for each in self.findings if each.resolved_at is None]
        return {
            "diagnosis/findings": float(sum(each.severity >= Severity.WARNING for each in standing)),
            "diagnosis/criticals": float(sum(each.severity == Severity.CRITICAL for each in standing)),
        }

    def _publish(self, trainer: Trainer) -> None:
        publish(trainer, {**self._counts(), "diagnosis/stop_reason": self._stop_number})

    def _log(self, trainer: Trainer, observation: Observation) -> None:
        scalars = {"diagnosis/findings": self._counts()["diagnosis/findings"], **observed_scalars(observation)}
        log_scalars(trainer, scalars, observation.step)

    # --- for people
    # ---------------------------------------------------------------------------------------------

    def report(self) -> str:
        """Return the verdict on the run so far, in one line."""
        return verdict_line(self.findings, len(self.history.observations))

    def roots(self) -> list[Finding]:
        """Return the findings that stand and follow from no other, the worst first."""
        return roots(self.findings)

    def table(self) -> str:
        """Return the causes as a table, the worst first, each with what to try and what follows from it."""
        return console_table(self.findings)

    def __repr__(self) -> str:
        return described(self, table=self.print_table)

    def _repr_html_(self) -> str:
        return html_table(self.findings, self.report())


def _mean_losses(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the losses that are the ranks' mean: what each of them would have brought together with the others."""
    columns = zip(*(state["losses"] for state in states), strict=False)
    losses = [(same[0][0], same[0][1], fmean(loss for *_, loss in same)) for same in columns]
    return {"losses": losses}
