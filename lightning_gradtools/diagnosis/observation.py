"""What is known of a run: observations of sampled steps, and the loss of every step."""

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from lightning_gradtools.diagnosis.contracts import Contracts
from lightning_gradtools.diagnosis.loop_observation import LoopObservation, ScheduleObservation
from lightning_gradtools.diagnosis.state import from_state

T = TypeVar("T")


@dataclass(frozen=True)
class LayerObservation:
    """One module with parameters of its own, at one step.

    Attributes:
        name: its path.
        signal: standard deviation of its outputs over the batch's samples; only measured in the first steps.
        backward: norm of the loss gradient with respect to all its outputs; None if none came back.
        gradient: norm of the gradients of its trainable parameters; None if no optimizer has any of them.
        weight: norm of these parameters before the step.
        update: norm of the step's change of them.
        identical: whether all its units have the same weights and received the same gradient.
        trainable: whether an optimizer that stepped has weights of it.
        ran: whether the forward pass called it.
    """

    name: str
    signal: float | None
    backward: float | None
    gradient: float | None = None
    weight: float = 0.0
    update: float = 0.0
    identical: bool = False
    trainable: bool = True
    ran: bool = True

    @property
    def update_ratio(self) -> float:
        """Norm of the change over norm of the weights; NaN where these are zero."""
        return self.update / self.weight if self.weight > 0 else math.nan


@dataclass(frozen=True)
class ActivationObservation:
    """One activation function in one place, over the batches up to one step.

    Attributes:
        name: path of its module, or of the layer that feeds it.
        function: ``relu``, ``tanh`` and so on.
        units: number of units; channels for a convolution.
        dead: number of units that are dead (see :class:`~lightning_gradtools.activations.DeadUnits`).
        never_fired: number of those that never fired.
        revived: number of units that had been dead and fired again.
        silent: number of units that no sample of this step's batch made fire.
        saturated: number of units that are saturated.
        samples: number of samples that all this rests on.
        last_death: the latest step at which a unit that is dead now fired; -1 without one.
        hidden: whether a layer with parameters comes after it.
    """

    name: str
    function: str
    units: int
    dead: int = 0
    never_fired: int = 0
    revived: int = 0
    silent: int = 0
    saturated: int = 0
    samples: int = 0
    last_death: int = -1
    hidden: bool = True


@dataclass(frozen=True)
class AttentionObservation:
    """One attention layer at one step, from some of its queries.

    Attributes:
        name: path of the module that holds it.
        logits: the largest of each head.
        entropies: of each head, the mean entropy of a row over that of equal weights, from 0 to 1.
    """

    name: str
    logits: tuple[float, ...]
    entropies: tuple[float, ...]


@dataclass(frozen=True)
class RoutingObservation:
    """One mixture-of-experts layer at one step.

    Attributes:
        name: path of the module that holds router and experts.
        experts: path of the experts' list.
        load: the share of each expert.
    """

    name: str
    experts: str
    load: tuple[float, ...]


@dataclass(frozen=True)
class Observation:
    """One sampled optimizer step.

    Attributes:
        step: its number, from 0.
        layers: in the order in which they first ran.
        activations: likewise.
        learning_rate: the largest of all parameter groups.
        skill: 1 - loss / baseline loss, of this step's batch; None where the loss is of no known kind.
        offset: loss of predicting zero / baseline loss; 1 where that is no more, or not known. Larger for targets far
            from zero, where every training starts above the baseline loss.
        loop: what the training loop did around the step.
        attention: the attention layers whose scores are seen.
        routing: the mixture-of-experts layers.
        log_partition: mean |log Z| of the logits of cross-entropies; None without one.
        logit_margin: mean of the largest logit less the mean of a row of them; likewise.
    """

    step: int
    layers: tuple[LayerObservation, ...]
    activations: tuple[ActivationObservation, ...] = ()
    learning_rate: float = 0.0
    skill: float | None = None
    offset: float = 1.0
    loop: LoopObservation = field(default_factory=LoopObservation)
    attention: tuple[AttentionObservation, ...] = ()
    routing: tuple[RoutingObservation, ...] = ()
    log_partition: float | None = None
    logit_margin: float | None = None

    # A history is judged anew at each sample, and each rule goes through all of it.
    @cached_property
    def dead_shares(self) -> dict[str, float]:
        """Share of dead units by activation; the larger one of two with one name."""
        shares: dict[str, float] = {}
        for each in self.activations:
            shares[each.name] = max(each.dead / each.units, shares.get(each.name, 0.0))
        return shares

    @property
    def is_finite(self) -> bool:
        """Whether all gradients and weights that were measured are finite."""
        measured = [(layer.backward or 0.0, layer.gradient or 0.0, layer.weight) for layer in self.layers]
        return all(math.isfinite(norm) for norms in measured for norm in norms)

    @cached_property
    def chain(self) -> list[LayerObservation]:
        """The layers that the loss gradient came back to, in forward order."""
        return [layer for layer in self.layers if layer.backward is not None]


@dataclass(frozen=True)
class NonfiniteEvent:
    """The first NaN or infinity of a stretch of steps.

    Attributes:
        step: optimizer step.
        batch_index: index of the batch in its epoch.
        rank: process that saw it first.
        direction: ``input data``, ``forward``, ``loss``, ``backward``, ``optimizer update`` or ``unknown``.
        layer: path of the module that turned finite values into others; "" if it is none.
        detail: more about it, for people.
    """

    step: int
    batch_index: int
    rank: int
    direction: str
    layer: str
    detail: str = ""


@dataclass
class History:
    """All that the rules may look at. Plain numbers only, so that it survives a checkpoint.

    Attributes:
        observations: the latest, oldest first.
        first_observations: those of the run's first sampled steps, kept when they have left the latest.
        losses: (step, loss) of the latest steps, oldest first; empty where there is no single loss.
        first_losses: those of the run's first steps.
        peak_learning_rate: the largest so far.
        nonfinite: every first non-finite value so far.
        recovered_from: how many of these training has recovered from: all that came before :data:`RECOVERED` steps
            with finite losses, or with finite gradients where there is no single loss.
        last_nonfinite: the latest step whose loss was not finite, or -1.
        reached: paths of the layers that a gradient ever reached.
        largest_update: the largest update ratio that each layer ever had.
        planned_steps: optimizer steps that the run is to have, None if that is not known.
        baselines: the latest estimates of the loss of the best constant prediction, on the scale of the losses.
        schedules: those of the learning rate that the run has, as far as their lengths and its own are known.
        scheduled: whether a schedule of the run can make a learning rate of zero larger.
        contracts: what the first sampled steps of the latest fit showed of them, kept until they are seen anew.
    """

    observations: list[Observation] = field(default_factory=list)
    losses: list[tuple[int, float]] = field(default_factory=list)
    first_losses: list[float] = field(default_factory=list)
    peak_learning_rate: float = 0.0
    nonfinite: list[NonfiniteEvent] = field(default_factory=list)
    last_nonfinite: int = -1
    reached: set[str] = field(default_factory=set)
    largest_update: dict[str, float] = field(default_factory=dict)
    planned_steps: int | None = None
    baselines: list[float] = field(default_factory=list)
    first_observations: list[Observation] = field(default_factory=list)
    recovered_from: int = 0
    schedules: list[ScheduleObservation] = field(default_factory=list)
    scheduled: bool = False
    contracts: list[Contracts] = field(default_factory=list)

    MAX_OBSERVATIONS = 60
    MAX_LOSSES = 400
    MAX_BASELINES = 20
    FIRST = 5
    RECOVERED = 50  # steps
    TELLING = 0.99  # skill beyond which rounding drowns what it says of the baseline loss

    def add_loss(self, step: int, loss: float) -> None:
        """Remember the loss of ``step``; one that is not finite is not remembered."""
        if not math.isfinite(loss):
            self.last_nonfinite = max(self.last_nonfinite, step)
            return
        self._recover(step)
        if len(self.first_losses) < self.FIRST:
            self.first_losses.append(loss)
        self.losses.append((step, loss))
        del self.losses[: -self.MAX_LOSSES]

    def add(self, observation: Observation) -> None:
        """Remember an observation."""
        self.observations.append(observation)
        if len(self.first_observations) < self.FIRST:
            self.first_observations.append(observation)
        if not self.losses and observation.is_finite:
            self._recover(observation.step)
        skill, (step, loss) = observation.skill, self.losses[-1] if self.losses else (-1, 0.0)
        if skill is not None and skill < self.TELLING and step == observation.step:
            self.baselines.append(loss / (1 - skill))
            del self.baselines[: -self.MAX_BASELINES]
        for layer in observation.layers:
            if layer.gradient:
                self.reached.add(layer.name)
            if layer.update_ratio > self.largest_update.get(layer.name, 0.0):
                self.largest_update[layer.name] = layer.update_ratio
        self.peak_learning_rate = max(self.peak_learning_rate, observation.learning_rate)
        del self.observations[: -self.MAX_OBSERVATIONS]

    def add_contracts(self, contracts: Contracts, *, anew: bool) -> None:
        """Remember what one of the first steps showed.

        Args:
            contracts: of the step.
            anew: whether it is the first one of a fit, so that what is known of an earlier one no longer holds.
        """
        if anew:
            self.contracts.clear()
        self.contracts.append(contracts)
        del self.contracts[: -self.FIRST]

    def _recover(self, step: int) -> None:
        """Note that values were finite at ``step``."""
        if step - self.last_nonfinite > self.RECOVERED:
            self.recovered_from = len(self.nonfinite)

    @property
    def step(self) -> int:
        """The latest step known."""
        steps = [self.losses[-1][0]] if self.losses else []
        steps += [self.observations[-1].step] if self.observations else []
        return max([*steps, self.last_nonfinite])

    def skill(self, count: int = 5) -> float | None:
        """Return the median skill of the latest ``count`` observations that have one."""
        known = [each.skill for each in self.observations[-count:] if each.skill is not None]
        return statistics.median(known) if known else None

    def baseline_loss(self) -> float | None:
        """Return the baseline loss on the scale of the losses, None where it is not known."""
        return statistics.median(self.baselines) if self.baselines else None

    def offset(self) -> float:
        """Return the latest observation's offset, 1 without any."""
        return self.observations[-1].offset if self.observations else 1.0

    def share_done(self) -> float:
        """Return the share of the run's steps that have been taken, 0 where its end is not known."""
        return (self.step + 1) / self.planned_steps if self.planned_steps else 0.0

    def warming_up(self) -> bool:
        """Say whether the learning rate has been zero so far, or is still on its way up."""
        rates = [each.learning_rate for each in self.observations]
        if not rates or self.peak_learning_rate == 0:
            return True
        return len(rates) > 1 and rates[-1] > rates[-2] and rates[-1] >= self.peak_learning_rate

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain dictionaries, lists and numbers."""
        state = {**asdict(self), "reached": sorted(self.reached)}
        state["guesses"] = state.pop("baselines")  # the key of checkpoints that exist
        return state

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "History":
        """Return the history that :meth:`as_dict` was called on, also of another version."""

        def observation(each: Mapping[str, Any]) -> Observation:
            layers = tuple(from_state(LayerObservation, layer) for layer in each["layers"])
            activations = tuple(from_state(ActivationObservation, one) for one in each.get("activations", ()))
            attention = tuple(_of_tuples(AttentionObservation, one) for one in each.get("attention", ()))
            routing = tuple(_of_tuples(RoutingObservation, one) for one in each.get("routing", ()))
            loop = LoopObservation.from_dict(each.get("loop", {}))
            parts = {"layers": layers, "activations": activations, "attention": attention, "routing": routing}
            return from_state(Observation, {**each, **parts, "loop": loop})

        observations = [observation(each) for each in state.get("observations", ())]
        nonfinite = [from_state(NonfiniteEvent, each) for each in state.get("nonfinite", ())]
        # A version without it kept no first observations, but its window may still hold them.
        first = state.get("first_observations", state.get("observations", ())[: cls.FIRST])
        return from_state(
            cls,
            {
                **state,
                "observations": observations,
                "first_observations": [observation(each) for each in first],
                "losses": [(step, loss) for step, loss in state.get("losses", ())],
                "first_losses": list(state.get("first_losses", ())),
                "nonfinite": nonfinite,
                # A version without it judged the last one only.
                "recovered_from": state.get("recovered_from", max(0, len(nonfinite) - 1)),
                "reached": set(state.get("reached", ())),
                "largest_update": dict(state.get("largest_update", {})),
                "baselines": list(state.get("guesses", ())),
                "schedules": [ScheduleObservation.from_dict(each) for each in state.get("schedules", ())],
                "contracts": [Contracts.from_dict(each) for each in state.get("contracts", ())],
            },
        )


def _of_tuples(kind: type[T], state: Mapping[str, Any]) -> T:
    """Return the dataclass made of ``state``, in which sequences may have become lists."""
    return from_state(kind, {name: tuple(value) if isinstance(value, list) else value for name, value in state.items()})


def persists(history: History, holds: Callable[[Observation], bool], needed: int) -> int:
    """Return for how many steps ``holds`` has been true of all of the latest observations, or 0.

    Args:
        history: whose observations are asked, the latest first, until one says no.
        holds: what is to persist.
        needed: how many in a row there must be.
    """
    run = 0
    for observation in reversed(history.observations):
        if not holds(observation):
            break
        run += 1
    if run < needed:
        return 0
    return max(1, history.observations[-1].step - history.observations[-run].step + 1)
