"""One sampled step, from the taps' tensors to an Observation: one reduction over ranks, one transfer."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradtools._lightning.gradient_pass import GradientPass
from lightning_gradtools._lightning.strategy import Replicas
from lightning_gradtools.activations import StepTap
from lightning_gradtools.activations.baseline_loss import baseline_loss, zero_loss
from lightning_gradtools.activations.step_tap import TappedActivation, TappedLayer
from lightning_gradtools.callbacks.pathology_detector.contract_sample import ContractSample
from lightning_gradtools.callbacks.pathology_detector.loop_sample import LoopSample, LowPrecision
from lightning_gradtools.callbacks.pathology_detector.model_parts import ModelParts
from lightning_gradtools.callbacks.pathology_detector.replica_spread import TOLERANCE, ReplicaSpread
from lightning_gradtools.callbacks.pathology_detector.unit_statistics import UnitStatistics, units_of
from lightning_gradtools.diagnosis.contracts import Contracts
from lightning_gradtools.diagnosis.loop_observation import LoopObservation
from lightning_gradtools.diagnosis.observation import ActivationObservation, LayerObservation, Observation
from lightning_gradtools.distributed import has_pending_sum
from lightning_gradtools.gradients.norms import LocalNorms, are_plain, local_norms
from lightning_gradtools.gradients.packing import Packing
from lightning_gradtools.gradients.symmetry import LocalExtremes, local_extremes, units_are_one

_MOMENTS = ("count", "first", "second")


@dataclass
class SampledParameters:
    """The parameters of one optimizer around its step.

    Attributes:
        seen: the pass over the gradients.
        old: copies of the weights before the step.
        extremes: by position, of a weight and of its gradient, where units may be the same.
    """

    seen: GradientPass
    old: list[Tensor]
    extremes: dict[int, tuple[LocalExtremes, LocalExtremes]] = field(default_factory=dict)

    @classmethod
    @torch.no_grad()
    def before_step(cls, seen: GradientPass, look_for_symmetry: bool) -> "SampledParameters":
        """Copy what the step will change. Ranks do not talk: what fails here on one of them has the others not wait."""
        parameters = seen.local.parameters
        sampled = cls(seen=seen, old=[parameter.detach().clone() for parameter in parameters])
        if look_for_symmetry:
            for position, parameter in enumerate(parameters):
                if _has_units(parameter):
                    assert parameter.grad is not None
                    sampled.extremes[position] = local_extremes(parameter), local_extremes(parameter.grad)
        return sampled

    @torch.no_grad()
    def local_norms(self, *, gradients: bool) -> LocalNorms:
        """Return those [2 · n] of weights before the step and of its change, [3 · n] with those of gradients first."""
        new = [parameter.detach() for parameter in self.seen.local.parameters]
        if are_plain(new):
            changes = list(torch._foreach_sub(new, self.old))
        else:  # which cannot mix DTensor and plain ones
            changes = [after - before for after, before in zip(new, self.old, strict=True)]
        moved = local_norms([*self.old, *changes], 2.0)
        return LocalNorms.joined([self.seen.local.norms, moved]) if gradients else moved


def _has_units(parameter: Tensor) -> bool:
    gradient = parameter.grad
    if gradient is None or gradient.layout != torch.strided or has_pending_sum(gradient):
        return False
    return isinstance(parameter, nn.Parameter) and parameter.dim() >= 2 and parameter.shape[0] > 1


@dataclass(frozen=True)
class ParameterNorms:
    """Norms of one parameter: of its gradient, of itself before the step, and of the step's change."""

    gradient: float
    weight: float
    update: float

    @classmethod
    def joined(cls, parts: Sequence["ParameterNorms"]) -> "ParameterNorms":
        """Return the norms of several parameters taken as one."""
        return cls(
            gradient=math.hypot(*(part.gradient for part in parts)),
            weight=math.hypot(*(part.weight for part in parts)),
            update=math.hypot(*(part.update for part in parts)),
        )


@dataclass(frozen=True)
class Sampled:
    """A sampled step on the host, the same on every rank.

    Attributes:
        observation: for the rules.
        losses: of the steps since the last sample.
        events: whether any rank has seen something non-finite.
        contracts: what the step showed of them; None where it was not asked to, or ranks saw different ones.
    """

    observation: Observation
    losses: list[float]
    events: bool
    contracts: Contracts | None = None


class StepSample:
    """Everything sampled of one optimizer step.

    Call :meth:`measure`, let the ranks compare :meth:`layout`, where it differs :meth:`keep` what all have and measure
    again, and then :meth:`observe`.

    Args:
        step: Lightning's logging step.
        tap: the taps, with what they saw.
        device: for what the ranks exchange.
        replicas: how the ranks share out batches and activations.
        loop: what it shows of the training loop.
        contracts: what the tap hears of contracts; None: nothing.
    """

    def __init__(
        self,
        step: int,
        tap: StepTap,
        device: torch.device,
        replicas: Replicas,
        loop: LoopSample,
        contracts: ContractSample | None = None,
    ) -> None:
        self.step = step
        self.tap = tap
        self.replicas = replicas
        self.loop = loop
        self.contracts = contracts
        self.parameters: dict[int, SampledParameters] = {}  # by the optimizer's id
        self.trainable: list[Tensor] = []
        self.moments: dict[str, Tensor] = {}
        self._device = device
        self._means: Packing[str] = Packing(device)
        self._layers: list[TappedLayer] | None = None
        self._sites: list[TappedActivation] | None = None
        self._ran: set[str] | None = None
        self._compares_replicas = replicas.alike
        self._spread: ReplicaSpread | None = None
        self._parts: ModelParts | None = None

    def before_step(self, optimizer: torch.optim.Optimizer, seen: GradientPass, look_for_symmetry: bool) -> None:
        """Copy what the step of ``optimizer`` will change; of several closures in one step, what the first finds."""
        known = self.parameters.get(id(optimizer))
        if known is None or len(known.old) != len(seen.local.parameters):
            sampled = SampledParameters.before_step(seen, look_for_symmetry)
            self.parameters[id(optimizer)] = sampled
            low = LowPrecision.before_step(optimizer, seen.local.parameters)
            if low is not None:
                self.loop.low[id(optimizer)] = low, sampled.old
        else:
            known.seen = seen

    @property
    def layers(self) -> list[TappedLayer]:
        """The layers to observe, in order."""
        return list(self.tap.layers.values()) if self._layers is None else self._layers

    @property
    def parts(self) -> ModelParts:
        """The heads, experts and logits to observe."""
        if self._parts is None:
            self._parts = ModelParts(self.tap, self.replicas.shards, self._device)
        return self._parts

    @property
    def sites(self) -> list[TappedActivation]:
        """The activations to observe, in order."""
        return self.tap.activations() if self._sites is None else self._sites

    def measure(self, losses: Sequence[Tensor], events: int) -> None:
        """Gather on the device what is to be averaged over ranks. Nothing is exchanged yet.

        Args:
            losses: 0-d losses of the steps since the last sample.
            events: number of non-finite values that this rank has seen.
        """
        self._means = Packing(self._device)
        self._average("signals", [torch.stack(layer.signals).mean() for layer in self.layers if layer.signals])
        self._average("backward", [_root_of_squares(layer.gradients) for layer in self.layers if layer.gradients])
        self._average("losses", losses)
        self._average("events", [torch.full((), float(events), device=self._device)])
        self._average("samples", [torch.full((), float(self.tap.samples), device=self._device)])
        self._average("fired", self._as_shard([site.fired for site in self.sites if site.fired is not None]))
        self._average("flat", self._as_shard([site.flat for site in self.sites if site.flat is not None]))
        self._average("loop", self.loop.numbers(self._device))
        for name, values in self.parts.vectors(self._as_shard):
            self._average(name, values)
        self._measure_loss()
        self._spread = None
        if self._compares_replicas and self.parameters:
            before = [(each.seen.local.parameters, each.old) for each in self.parameters.values()]
            parameters, olds = ([x for part in parts for x in part] for parts in zip(*before, strict=True))
            self._spread = ReplicaSpread.of(parameters, olds)
        if self.contracts is not None:
            self._average("contracts", self.contracts.vector(self._device))

    def _as_shard(self, parts: Sequence[Tensor]) -> Tensor:
        """Return [shards · n] what the mean over all ranks makes each shard's mean of, from this rank's parts of n."""
        values = torch.cat([part.float() for part in parts]) if parts else torch.zeros(0)
        if self.replicas.shards == 1:
            return values
        spread = values.new_zeros(self.replicas.shards, len(values))
        spread[self.replicas.shard] = values * self.replicas.shards
        return spread.reshape(-1)

    def _average(self, name: str, values: Tensor | Sequence[Tensor]) -> None:
        """Have a vector, or what is made of several 0-d tensors, averaged over ranks."""
        if not isinstance(values, Tensor):
            scalars = [value.detach().to(self._device, torch.float32) for value in values]
            values = torch.stack(scalars) if scalars else torch.zeros(0, device=self._device)
        self._means.put(name, values.reshape(-1).to(self._device, torch.float32), over_ranks=True)

    def _measure_loss(self) -> None:
        """Add the moments of the step's losses, if they are of one known kind and of one shape."""
        samples = self.tap.losses
        if len({(sample.kind, sample.first.shape) for sample in samples}) != 1:
            return
        for name in _MOMENTS:
            self._average(name, torch.stack([getattr(sample, name) for sample in samples]).sum(0))
        self._average("loss", [torch.stack([sample.loss for sample in samples]).mean()])

    def layout(self) -> list[tuple[Any, ...]]:
        """Return what this rank has, in words: ranks reduce together only what all of them have."""
        layers = [("layer", x.name, bool(x.signals), bool(x.gradients)) for x in self.layers]
        sites = [("activation", x.name, x.function, units_of(x)) for x in self.sites]
        losses = [("loss", x.kind, tuple(x.first.shape)) for x in self.tap.losses]
        symmetry = [("weight", i, p) for i, each in enumerate(self.parameters.values()) for p in each.extremes]
        ran = [("ran", name) for name in sorted(self.tap.ran)]
        weights = [] if self._spread is None else [("weights of replicas", len(self._spread.parameters))]
        contracts = [] if self.contracts is None else self.contracts.layout()
        rest = [*self.loop.layout(), *self.parts.layout(), *weights, *contracts]
        return [*layers, *sites, *losses, *symmetry, *ran, *rest, ("sizes", *self._means.sizes.items())]

    def keep(self, layouts: Sequence[list[tuple[Any, ...]]]) -> None:
        """Keep only what is in the ``layouts`` of all ranks: their steps may take different ways."""
        common = [key for key in layouts[0] if all(key in other for other in layouts[1:])]
        layers = {("layer", x.name, bool(x.signals), bool(x.gradients)): x for x in self.layers}
        sites = {("activation", x.name, x.function, units_of(x)): x for x in self.sites}
        self._layers = [layers[key] for key in common if key in layers]
        self._sites = [sites[key] for key in common if key in sites]
        self.parts.keep(common)
        self._ran = {key[1] for each in layouts for key in each if key[0] == "ran"}
        losses = [[key for key in each if key[0] == "loss"] for each in layouts]
        if any(each != losses[0] for each in losses):
            self.tap.losses.clear()
        self.loop.keep(common)
        self._compares_replicas = any(key[0] == "weights of replicas" for key in common)
        if self.contracts is not None and any(key not in common for key in self.contracts.layout()):
            self.contracts = None
        for i, each in enumerate(self.parameters.values()):
            each.extremes = {p: pair for p, pair in each.extremes.items() if ("weight", i, p) in common}

    def observe(
        self,
        names: Mapping[int, str],
        learning_rate: float,
        statistics: UnitStatistics | None,
        moments: Mapping[str, Tensor],
    ) -> Sampled:
        """Average over ranks, and bring everything to the host.

        Args:
            names: path of the module that owns each parameter, by ``id``.
            learning_rate: the largest of all groups.
            statistics: of the activations of all samples so far, to which this adds; None without any.
            moments: sums over all samples so far of the targets' moments; with this one's they are in ``moments`` then.
        """
        self._average("identical", self._identical())
        means = self._means.on_device()
        host: Packing[str] = Packing(self._device)
        for name in ("signals", "backward", "identical", "losses", "events", "heads", "loads", "logits", "contracts"):
            host.put(name, means.get(name, torch.zeros(0)))
        host.put("skill", self._skill(means, moments))
        host.put("loop", means["loop"])
        host.put("spread", torch.zeros(0) if self._spread is None else self._spread.over_ranks())
        for i, norms in enumerate(self._norms()):
            host.put(f"norms of {i}", norms)
        if statistics is not None:
            samples = (means["samples"] * self.replicas.data).round().long().reshape(())
            host.put("samples", samples.float())
            host.put("silent", statistics.update(means["fired"] > 0, means["flat"], samples, self.step))
            host.put("units", statistics.units())
            for name, counts in statistics.counts().items():
                host.put(f"units {name}", counts)
        values = host.to_host()
        if statistics is not None:
            statistics.samples += int(values["samples"][0])
        score = values["skill"]
        observation = Observation(
            step=self.step,
            layers=tuple(self._observed_layers(values, names)),
            activations=() if statistics is None else tuple(self._observed_activations(values, statistics.samples)),
            learning_rate=learning_rate,
            skill=score[0] if score and math.isfinite(score[0]) else None,
            offset=max(1.0, score[1]) if score and math.isfinite(score[1]) else 1.0,
            loop=self._observed_loop(values),
            **self.parts.observed(values),
        )
        contracts = None if self.contracts is None else self.contracts.read(self.step, values["contracts"])
        return Sampled(
            observation=observation,
            losses=values["losses"],
            events=values["events"] != [0.0],
            contracts=contracts,
        )

    def _identical(self) -> list[Tensor]:
        """Return for each weight of which extremes are kept, as [] bool, whether its units are the same."""
        pairs = [pair for each in self.parameters.values() for pair in each.extremes.values()]
        flags = units_are_one([extremes for pair in pairs for extremes in pair])
        return [weight & gradient for weight, gradient in zip(flags[::2], flags[1::2], strict=True)]

    @torch.no_grad()
    def _norms(self) -> list[Tensor]:
        """Return [3 · n] for each optimizer: norms of gradients, of weights before the step and of the change."""
        samples = list(self.parameters.values())
        known = [each.seen.is_whole for each in samples]
        local = [each.local_norms(gradients=not whole) for each, whole in zip(samples, known, strict=True)]
        if not local:
            return []
        found = LocalNorms.joined(local).whole().split([len(each.here) for each in local])
        norms = []
        for each, whole, values in zip(samples, known, found, strict=True):
            if whole:
                gradients, rest = each.seen.norms.per_parameter, values
            else:
                gradients, rest = values.split([len(each.old), 2 * len(each.old)])
                gradients = gradients if each.seen.loss_scale is None else gradients / each.seen.loss_scale
            norms.append(torch.cat([gradients, rest.to(gradients)]))
        return norms

    def _skill(self, means: Mapping[str, Tensor], moments: Mapping[str, Tensor]) -> Tensor:
        """Return [2] 1 - loss / baseline loss, and the loss of predicting zero / baseline loss.

        Nothing where the loss is of no known kind.
        """
        self.moments = dict(moments)
        if "loss" not in means:
            return torch.zeros(0)
        for name in _MOMENTS:
            known, new = moments.get(name), means[name]
            self.moments[name] = known.to(new) + new if known is not None and known.shape == new.shape else new
        count, first, second = (self.moments[name] for name in _MOMENTS)
        kind, count = self.tap.losses[0].kind, count.reshape(())
        baseline = baseline_loss(kind, count, first, second).clamp(min=1e-12)
        return torch.cat([1 - means["loss"] / baseline, (zero_loss(kind, count, first, second) / baseline).reshape(1)])

    def _observed_loop(self, values: Mapping[str, list[float]]) -> LoopObservation:
        parameters = [] if self._spread is None else self._spread.parameters
        spreads = {
            self.loop.names.get(id(parameter), ""): spread
            for parameter, spread in zip(parameters, values["spread"], strict=True)
            if spread > TOLERANCE
        }
        return self.loop.observe(values["loop"], list(spreads), max(spreads.values(), default=0.0))

    def _observed_layers(self, values: Mapping[str, list[float]], names: Mapping[int, str]) -> list[LayerObservation]:
        trainable = {names.get(id(parameter), "") for parameter in self.trainable}
        norms, identical = self._by_owner(values, names)
        signal = dict(zip((x.name for x in self.layers if x.signals), values["signals"], strict=True))
        backward = dict(zip((x.name for x in self.layers if x.gradients), values["backward"], strict=True))
        ran = self.tap.ran if self._ran is None else self._ran
        seen = [layer.name for layer in self.layers]
        found = []
        for name in [*seen, *sorted(trainable - set(seen) - {""})]:
            own = norms.get(name)
            joined = None if own is None else ParameterNorms.joined(own)
            found.append(
                LayerObservation(
                    name=name,
                    signal=signal.get(name),
                    backward=backward.get(name),
                    gradient=None if joined is None else joined.gradient,
                    weight=0.0 if joined is None else joined.weight,
                    update=0.0 if joined is None else joined.update,
                    identical=name in identical,
                    trainable=name in trainable,
                    ran=name in ran,
                )
            )
        return found

    def _by_owner(
        self, values: Mapping[str, list[float]], names: Mapping[int, str]
    ) -> tuple[dict[str, list[ParameterNorms]], set[str]]:
        """Return the norms of the parameters of each module, and the modules all of whose units are the same."""
        norms: dict[str, list[ParameterNorms]] = {}
        same: dict[str, bool] = {}
        flags = iter(values["identical"])
        for i, each in enumerate(self.parameters.values()):
            flagged = dict(zip(each.extremes, flags, strict=False))
            parameters = each.seen.local.parameters
            columns = values[f"norms of {i}"]
            rows = [columns[k * len(parameters) : (k + 1) * len(parameters)] for k in range(3)]
            for position, (parameter, gradient, weight, update) in enumerate(zip(parameters, *rows, strict=True)):
                owner = names.get(id(parameter), "")
                found = ParameterNorms(gradient=gradient, weight=weight, update=update)
                norms.setdefault(owner, []).append(found)
                if position in flagged:
                    same[owner] = flagged[position] == 1.0
        return norms, {owner for owner, alike in same.items() if alike}

    def _observed_activations(self, values: Mapping[str, list[float]], samples: int) -> list[ActivationObservation]:
        return [
            ActivationObservation(
                name=site.name,
                function=site.function,
                units=round(values["units"][i]),
                dead=round(values["units dead"][i]),
                never_fired=round(values["units never fired"][i]),
                revived=round(values["units revived"][i]),
                silent=round(values["silent"][i]),
                saturated=round(values["units saturated"][i]),
                samples=samples,
                last_death=int(values["units last death"][i]),
                hidden=site.order < len(self.layers),
            )
            for i, site in enumerate(self.sites)
        ]


def _root_of_squares(norms: Sequence[Tensor]) -> Tensor:
    return norms[0] if len(norms) == 1 else torch.stack(list(norms)).square().sum().sqrt()
