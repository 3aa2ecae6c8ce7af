"""What a GradientMonitor measures around an optimizer step: the base class of one quantity, and what it is given."""

# ruff: noqa: B027, a measurement defines only the moments in which it has something to do

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from lightning_gradtools._lightning.fail_safe import FailSafe
from lightning_gradtools._lightning.gradient_pass import GradientPass, gradient_pass
from lightning_gradtools.callbacks.gradient_monitor.layer_tables import LayerTables
from lightning_gradtools.gradients.histogram import Histogram
from lightning_gradtools.gradients.layers import LayerTable
from lightning_gradtools.gradients.norms import GradientNorms


@dataclass(frozen=True, kw_only=True)
class Run:
    """The run that is watched.

    Attributes:
        trainer: its Trainer.
        module: what is trained.
        guard: of the monitor. A function put on a tensor or module as a hook goes through ``guard.wrap``.
    """

    trainer: Trainer
    module: LightningModule
    guard: FailSafe


@dataclass(frozen=True, kw_only=True)
class StepContext:
    """A logged step of one optimizer.

    Attributes:
        trainer: the run's Trainer.
        module: what is trained.
        optimizer: that takes the step.
        index: its position among the Trainer's optimizers.
        step: Lightning's logging step.
        seen: the pass over the gradients, with what clipping did to them.
        norm_type: the p of the monitor's norms: 1, 2 or infinity.
        consumer: the monitor.
        tables: the names and layers of parameters.
    """

    trainer: Trainer
    module: LightningModule
    optimizer: Optimizer
    index: int
    step: int
    seen: GradientPass
    norm_type: float
    consumer: Callback
    tables: LayerTables

    @property
    def norms(self) -> GradientNorms:
        """The norms of the gradients, before clipping, and the n parameters that have one."""
        return self.seen.norms

    def euclidean_total(self) -> Tensor:
        """Return the 2-norm [] of all gradients, whatever the norm of the monitor is."""
        norms = self.norms if self.norm_type == 2 else gradient_pass(self.trainer, self.optimizer, self.consumer).norms
        return norms.total

    def reported(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the name and the gradient of every parameter that is to be reported, without the loss scale."""
        for parameter, gradient in zip(self.norms.parameters, self.norms.gradients(), strict=True):
            name, layer = self.tables.name_and_layer(self.module, parameter)
            if layer is not None:
                yield name, gradient if self.seen.loss_scale is None else gradient / self.seen.loss_scale


@dataclass(frozen=True, kw_only=True)
class PerLayer:
    """A quantity of a step, on the host.

    Attributes:
        total: its value for all parameters together, or None if there is none.
        layers: its values for the reported layers in their order, each None if there is none; empty to log no layer.
    """

    total: float | None = None
    layers: Sequence[float | None] = ()


@dataclass(frozen=True, kw_only=True)
class MeasuredStep:
    """A logged step of one optimizer whose numbers are on the host.

    Attributes:
        step: Lightning's logging step.
        layers: the reported layers of the n parameters.
        norm_type: the p of the monitor's norms: 1, 2 or infinity.
    """

    step: int
    layers: LayerTable
    norm_type: float

    def norms(self, total: float, per_parameter: Sequence[float]) -> PerLayer:
        """Return norms as a quantity, those of the layers from those of their parameters [n]."""
        return PerLayer(total=total, layers=self.layers.norms(per_parameter, self.norm_type))


class Measurement(ABC):
    """One quantity that a GradientMonitor logs. The monitor decides when, and brings the numbers to the host.

    On a logged step :meth:`before_step` and :meth:`after_step` measure and leave the numbers on their device. Later,
    when the numbers of one or several steps have come to the host together, :meth:`scalars` makes of them what is
    logged. Nothing else has to be defined.

    Several evaluations of one step (LBFGS) call :meth:`before_step` several times; what the last returned counts.

    Where the parameters are sharded (FSDP2, tensor parallelism) every rank calls the same methods in the same order,
    so they may communicate; what may fail on one rank alone should come before.
    """

    @property
    def shared(self) -> Mapping[str, int]:
        """Lengths of those slots, by name, that are averaged over the ranks when they come to the host.

        The same on all ranks during a fit. A rank that did not return such a slot counts with zeros.
        """
        return {}

    def start_fit(self, run: Run) -> None:
        """Begin a fit."""

    def start_batch(self, run: Run, batch: Any) -> None:
        """Begin a batch that a logged step will use, the last or not of those that it accumulates."""

    def before_backward(self, run: Run) -> None:
        """Begin the backward pass of the loss (under automatic optimisation; of every batch)."""

    def after_backward(self, run: Run) -> None:
        """End the backward pass of the loss, of every batch."""

    def before_step(self, context: StepContext) -> Mapping[str, Tensor]:
        """Return numbers of a logged step that is about to be taken, as slots [] or [k] by name, without waiting."""
        return {}

    def after_step(self, context: StepContext) -> Mapping[str, Tensor]:
        """Return more numbers of the step, which has been taken, under other names."""
        return {}

    def before_next(self, step: int, index: int, optimizer: Optimizer) -> None:
        """Look at the gradients of ``step``, logged or not, because ``step + 1`` is logged.

        Args:
            step: Lightning's logging step.
            index: position of the optimizer.
            optimizer: that is about to take the step.
        """

    def histograms(self) -> Mapping[str, Histogram]:
        """Return histograms of the latest step by key, once."""
        return {}

    @abstractmethod
    def scalars(self, found: Mapping[str, Sequence[float]], step: MeasuredStep) -> Mapping[str, float | PerLayer]:
        """Return what is logged of a step.

        Args:
            found: the slots of the step by name. One that is ``shared`` is missing where the ranks could not meet.
            step: the step.

        Returns:
            By key a number, or by the part of the keys before the slash a quantity with its layers.
        """

    def release(self) -> None:
        """Let go of everything held for the run: hooks, copies. Must not raise when there is nothing."""

    def reset(self) -> None:
        """Forget what earlier steps have shown, because another run begins."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint has to hold, as plain values; empty if nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""


def quotient(above: float, below: float) -> float | None:
    """Return ``above / below``, None where that is 0."""
    return above / below if below else None


def overrides(measurement: Measurement, method: str) -> bool:
    """Say whether ``measurement`` does anything in ``method``."""
    return getattr(type(measurement), method) is not getattr(Measurement, method)
