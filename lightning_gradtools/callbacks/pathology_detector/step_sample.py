"""One sampled step, from the taps' tensors to an Observation: one vector, one reduction over ranks, one transfer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradtools._lightning.gradient_pass import GradientPass
from lightning_gradtools.activations import DeadUnits, Saturation, StepTap
from lightning_gradtools.activations.baseline_loss import guessing_loss
from lightning_gradtools.activations.step_tap import TappedActivation, TappedLayer
from lightning_gradtools.diagnosis.observation import ActivationObservation, LayerObservation, Observation
from lightning_gradtools.distributed import gather_objects, mean_over_ranks, meet, whole
from lightning_gradtools.gradients.norms import tensor_norms


@dataclass
class SampledParameters:
    """The parameters of one optimizer around its step.

    Attributes:
        seen: the pass over the gradients.
        old: copies of the weights before the step.
        identical: by position, [] bool: whether all units of a weight are the same, gradient included.
    """

    seen: GradientPass
    old: list[Tensor]
    identical: dict[int, Tensor] = field(default_factory=dict)

    @classmethod
    @torch.no_grad()
    def before_step(cls, seen: GradientPass, look_for_symmetry: bool) -> "SampledParameters":
        """Copy what the step will change."""
        parameters = seen.norms.parameters
        sampled = cls(seen, [parameter.detach().clone() for parameter in parameters])
        if look_for_symmetry:
            for position, parameter in enumerate(parameters):
                gradient = parameter.grad
                dense = isinstance(parameter, nn.Parameter) and gradient is not None
                if dense and gradient.layout == torch.strided and parameter.dim() >= 2 and parameter.shape[0] > 1:  # type: ignore[union-attr]
                    alike = _identical(whole(parameter.detach())) & _identical(whole(gradient))  # type: ignore[arg-type]
                    sampled.identical[position] = alike
        return sampled

    @torch.no_grad()
    def norms(self) -> Tensor:
        """Return [3, n]: norms of gradients, of weights before the step and of the change."""
        new = [parameter.detach() for parameter in self.seen.norms.parameters]
        changes = list(torch._foreach_sub(new, self.old)) if new else []
        device = self.seen.norms.per_parameter.device
        weights, updates = tensor_norms(self.old).to(device), tensor_norms(changes).to(device)
        return torch.stack([self.seen.norms.per_parameter, weights, updates])


def _identical(rows: Tensor) -> Tensor:
    rows = rows.flatten(1)
    return (rows - rows[:1]).abs().amax() <= 1e-5 * rows.abs().amax()


class UnitBook:
    """The unit statistics of all activations of a network, each kind in one metric over all their units."""

    def __init__(self, sites: Sequence[TappedActivation], patience: int) -> None:
        self.sites = [(site.name, site.function, self.units(site), site.fired is not None) for site in sites]
        self.dead = DeadUnits(sum(units for *_, units, fires in self.sites if fires), patience)
        self.flat = Saturation(sum(units for *_, units, fires in self.sites if not fires), patience)
        self.samples = 0
        # The site of each unit that can fire, and of each that can saturate.
        owners = [(i, fires) for i, (*_, units, fires) in enumerate(self.sites) for _ in range(units)]
        self._fires = torch.tensor([i for i, fires in owners if fires], dtype=torch.long)
        self._saturates = torch.tensor([i for i, fires in owners if not fires], dtype=torch.long)

    @staticmethod
    def units(site: TappedActivation) -> int:
        """Return the number of units of ``site``."""
        measured = site.fired if site.fired is not None else site.flat
        return 0 if measured is None else len(measured)

    def fits(self, sites: Sequence[TappedActivation]) -> bool:
        """Say whether ``sites`` are the activations that this was made for."""
        return self.sites == [(s.name, s.function, self.units(s), s.fired is not None) for s in sites]

    def update(self, sites: Sequence[TappedActivation], samples: int, step: int) -> Tensor:
        """Add a batch; return the share of each site's one-sided units that it left silent [sites]."""
        fired = [site.fired for site in sites if site.fired is not None]
        flat = [site.flat for site in sites if site.flat is not None]
        device = (fired + flat)[0].device
        if self.dead.device != device:
            self.dead, self.flat = self.dead.to(device), self.flat.to(device)
        self.dead.update(torch.cat([*fired, torch.zeros(0, dtype=torch.bool, device=device)]), samples, step)
        self.flat.update(torch.cat([*flat, torch.zeros(0, device=device)]), samples)
        self.samples += samples
        if not fired:
            return torch.zeros(len(sites), device=device)
        return self._per_site(~torch.cat(fired), self._fires)

    def counts(self) -> Tensor:
        """Return [sites, 5]: dead, never fired, revived, last death, saturated."""
        # torchmetrics makes a vector of one unit a scalar
        dead, never_fired, died_at, revivals = (each.reshape(-1) for each in self.dead.compute())
        saturated = self.flat.compute().reshape(-1)
        counts = [self._per_site(units, self._fires) for units in (dead, never_fired, revivals > 0)]
        last = torch.full((len(self.sites),), -1.0, device=dead.device)
        last.scatter_reduce_(0, self._fires.to(last.device), died_at.float(), "amax")
        return torch.stack([*counts, last, self._per_site(saturated, self._saturates)], dim=1)

    def _per_site(self, units: Tensor, owners: Tensor) -> Tensor:
        """Return the sum [sites] of what is one number for each unit."""
        total = torch.zeros(len(self.sites), device=units.device)
        return total.index_add_(0, owners.to(units.device), units.float())


class StepSample:
    """Everything sampled of one optimizer step.

    Args:
        step: Lightning's logging step.
        tap: the taps, with what they saw.
    """

    def __init__(self, step: int, tap: StepTap) -> None:
        self.step = step
        self.tap = tap
        self.parameters: list[SampledParameters] = []
        self.trainable: list[Tensor] = []
        self.layers: list[TappedLayer] = []
        self.sites: list[TappedActivation] = []
        self.ran: set[str] = set()

    def finish(self, device: torch.device) -> None:
        """Collect what the taps saw, without what only some of the ranks did: their steps may take different ways.

        To be called on all ranks before :meth:`observe`. The lists of layers, activations and losses are the same on
        every rank afterwards, so that reductions over ranks match.

        Args:
            device: for what the ranks exchange.
        """
        layers = {("layer", x.name, bool(x.signals), bool(x.gradients)): x for x in self.tap.layers.values()}
        self.layers, self.sites = list(self.tap.layers.values()), self.tap.activations()
        sites = {("activation", x.name, x.function, UnitBook.units(x)): x for x in self.sites}
        guesses = [("loss", x.kind, tuple(x.first.shape)) for x in self.tap.guesses]
        symmetry = [("weight", i, p) for i, each in enumerate(self.parameters) for p in each.identical]
        layout: list[tuple[Any, ...]] = [*layers, *sites, *guesses, *symmetry]
        self.ran = set(self.tap.layers)
        if meet(repr(layout), False, device).same:
            return
        layouts: list[Any] = gather_objects(layout)
        common = [key for key in layouts[0] if all(key in other for other in layouts[1:])]
        self.layers = [layers[key] for key in common if key in layers]
        self.sites = [sites[key] for key in common if key in sites]
        self.ran = {key[1] for each in layouts for key in each if key[0] == "layer"}
        if any([key for key in each if key[0] == "loss"] != guesses for each in layouts):
            self.tap.guesses.clear()
        for i, each in enumerate(self.parameters):
            each.identical = {p: flag for p, flag in each.identical.items() if ("weight", i, p) in common}

    def observe(
        self,
        names: dict[int, str],
        losses: Sequence[Tensor],
        book: "UnitBook | None",
        moments: dict[str, Tensor],
        learning_rate: float,
        extra: Tensor,
        trainable: frozenset[str],
    ) -> tuple[Observation, list[float], list[float]]:
        """Bring it to the host.

        Args:
            names: path of the module that owns each parameter, by ``id``.
            losses: 0-d losses of the steps since the last sample.
            book: the unit statistics, which this adds to.
            moments: sums over all samples so far of the targets' moments, which this adds to.
            learning_rate: the largest of all groups.
            extra: [k] more numbers to average over ranks.
            trainable: paths of the modules that the optimizers which stepped have weights of.

        Returns:
            The observation, the losses and ``extra``, the same on every rank.
        """
        sites, layers = self.sites, self.layers
        device = extra.device
        columns: list[Tensor] = []

        def put(values: Sequence[Tensor]) -> slice:
            start = sum(map(len, columns))
            columns.append(torch.stack([value.to(device, torch.float32) for value in values]) if values else extra[:0])
            return slice(start, start + len(values))

        varied = [layer for layer in layers if layer.signals]
        signals = put([torch.stack(layer.signals).mean() for layer in varied])
        returned = [layer for layer in layers if layer.gradients]
        backward = put([_root_of_squares(layer.gradients) for layer in returned])
        gathered = [each.norms() for each in self.parameters]
        identical = [(i, p, flag) for i, each in enumerate(self.parameters) for p, flag in each.identical.items()]
        flags = put([flag for *_, flag in identical])
        lost = put(losses)
        more = put(list(extra))
        skill = put(self._skill(moments))
        silent = slice(0, 0)
        if book is not None and sites:
            silent = put(list(book.update(sites, self.tap.samples, self.step)))
        values = mean_over_ranks(torch.cat(columns))
        parts = [values] + [each.reshape(-1).to(device) for each in gathered]
        if book is not None and sites:
            parts.append(book.counts().reshape(-1).to(device))
        flat = torch.cat(parts).tolist()
        values_, at = flat[: len(values)], len(values)

        owners: dict[str, list[tuple[float, float, float]]] = {}
        same: dict[str, bool] = {}
        flagged = {(i, p): value for (i, p, _), value in zip(identical, values_[flags], strict=True)}
        for i, each in enumerate(self.parameters):
            count = len(each.seen.norms.parameters)
            rows = [flat[at + row * count : at + (row + 1) * count] for row in range(3)]
            at += 3 * count
            for position, parameter in enumerate(each.seen.norms.parameters):
                owner = names.get(id(parameter), "")
                owners.setdefault(owner, []).append((rows[0][position], rows[1][position], rows[2][position]))
                if (i, position) in flagged:
                    same[owner] = flagged[i, position] == 1.0
        norms = dict(zip((layer.name for layer in returned), values_[backward], strict=True))
        seen = []
        others = trainable - {layer.name for layer in layers} - {""}
        signal = dict(zip((layer.name for layer in varied), values_[signals], strict=True))
        for layer in [*layers, *(TappedLayer(name, len(layers)) for name in sorted(others))]:
            own = owners.get(layer.name)
            gradient, weight, update = (None, 0.0, 0.0) if own is None else map(_root, zip(*own, strict=True))
            seen.append(
                LayerObservation(
                    layer.name,
                    signal.get(layer.name),
                    norms.get(layer.name),
                    gradient,
                    weight or 0.0,
                    update or 0.0,
                    same.get(layer.name, False),
                    layer.name in trainable,
                    layer.name in self.ran,
                )
            )
        activations: list[ActivationObservation] = []
        if book is not None and sites:
            counts = [flat[at + 5 * i : at + 5 * i + 5] for i in range(len(sites))]
            for site, (dead, never, revived, died, flat_), quiet in zip(sites, counts, values_[silent], strict=True):
                _, _, units, _ = book.sites[len(activations)]
                activations.append(
                    ActivationObservation(
                        site.name,
                        site.function,
                        units,
                        int(dead),
                        int(never),
                        int(revived),
                        round(quiet),
                        int(flat_),
                        book.samples,
                        int(died),
                        site.order < len(layers),
                    )
                )
        score = values_[skill]
        observation = Observation(
            self.step,
            tuple(seen),
            tuple(activations),
            learning_rate,
            score[0] if score and math.isfinite(score[0]) else None,
        )
        return observation, values_[lost], values_[more]

    def _skill(self, moments: dict[str, Tensor]) -> list[Tensor]:
        """Return [skill] if the step had losses of one known kind, all of one shape; otherwise nothing."""
        guesses = self.tap.guesses
        kinds = {(guess.kind, guess.first.shape) for guess in guesses}
        if len(kinds) != 1:
            return []
        kind = guesses[0].kind
        for name in ("count", "first", "second"):
            total = torch.stack([getattr(guess, name) for guess in guesses]).sum(0)
            moments[name] = moments[name] + total if name in moments and moments[name].shape == total.shape else total
        pooled = {name: mean_over_ranks(value) for name, value in moments.items()}
        reference = guessing_loss(kind, pooled["count"], pooled["first"], pooled["second"])
        loss = torch.stack([guess.loss for guess in guesses]).mean()
        return [1 - loss / reference.clamp(min=1e-12)]


def _root_of_squares(norms: Sequence[Tensor]) -> Tensor:
    return norms[0] if len(norms) == 1 else torch.stack(list(norms)).square().sum().sqrt()


def _root(values: Sequence[float]) -> float:
    return math.hypot(*values)
