"""A mixture of experts some of which are given next to nothing."""

import math
from collections.abc import Iterator, Sequence

from lightning_gradtools.diagnosis.finding import Evidence, Finding, Kind, Remedy, Severity
from lightning_gradtools.diagnosis.observation import History, Observation, RoutingObservation
from lightning_gradtools.diagnosis.remedies import lower_learning_rate
from lightning_gradtools.diagnosis.rule import Need, Rule, RuleContext

DEAD = 0.1  # of an equal share
DEAD_SHARE = 0.25  # of the experts
EFFECTIVE = 0.5  # of the experts, by the entropy of the load
_NEEDED = 8  # observations that are taken together, or more where these span fewer steps: experts may take turns
_STEPS = 30  # that these span at least; a router's first choices are those of its first weights

_REMEDIES = (
    Remedy(
        sentence=(
            "Add a loss that balances the load: the number of experts times the sum, over experts, of the share chosen"
            " times the mean probability, times 0.01 to 0.1."
        ),
        code="loss = loss + 0.01 * n_experts * (chosen.float().mean(0) * probabilities.mean(0)).sum()",
    ),
    Remedy(
        sentence="Start the router from small weights, without bias.",
        code="nn.init.normal_(router.weight, std=1e-2)",
    ),
)


def find_expert_imbalance(context: RuleContext) -> Iterator[Finding]:
    """Layers in which experts get less than a tenth of an equal share, over several samples taken together.

    A quarter of them, or a load that is spread over as few as half of them would be (by the exponential of its
    entropy), is a ``warning``; a single one is worth an ``info``. One finding a layer: that these experts then have no
    gradient is what follows. Loads that differ by a few times are what specialists look like. A router that no gradient
    has ever reached cannot learn to balance them, and is found by :mod:`no_gradient`.

    Sources: Shazeer et al. 2017, arXiv:1701.06538; Fedus et al. 2022, arXiv:2101.03961, whose balancing loss is the
    first remedy.
    """
    latest = context.latest
    for layer in latest.routing:
        if not _can_learn(layer, context.history):
            continue
        seen = _of(layer, context.history.observations)
        while len(seen) > _NEEDED and latest.step - seen[1][0] >= _STEPS:
            del seen[0]
        if len(seen) < _NEEDED or latest.step - seen[0][0] < _STEPS:
            continue
        loads = [load for _, load in seen]
        load, lately = _mean(loads), _mean(loads[-_NEEDED // 2 :])
        count = len(load)
        dead = [i for i in range(count) if load[i] * count < DEAD and lately[i] * count < DEAD]
        effective = max(_effective(load), _effective(lately)) / count
        if not dead and effective > EFFECTIVE:
            continue
        severe = len(dead) >= DEAD_SHARE * count or effective <= EFFECTIVE
        steps = latest.step - seen[0][0] + 1
        yield Finding(
            kind=Kind.EXPERT_IMBALANCE,
            layer=layer.name,
            step=latest.step,
            severity=Severity.WARNING if severe else Severity.INFO,
            evidence=(
                Evidence(
                    quantity="experts with less than a tenth of an equal share / experts",
                    value=len(dead) / count,
                    threshold=DEAD_SHARE,
                    steps=steps,
                ),
                Evidence(
                    quantity="experts that an equal load would have / experts",
                    value=effective,
                    threshold=EFFECTIVE,
                    steps=steps,
                ),
                Evidence(quantity="largest load / mean load", value=max(load) * count, threshold=1.0, steps=steps),
            ),
            message=(
                f"{layer.name} has {count} experts, of which {len(dead)} are given next to nothing and one is given"
                f" {max(load):.0%}: what is not chosen learns nothing, and is not chosen"
            ),
        )


def _can_learn(layer: RoutingObservation, history: History) -> bool:
    """Say whether a gradient has reached anything of the layer but its experts, unless these are all there is."""
    names = [each.name for each in history.observations[-1].layers if each.trainable]
    inside = [name for name in names if name == layer.name or name.startswith(f"{layer.name}.")]
    router = [name for name in inside if not name.startswith(f"{layer.experts}.")]
    return not router or not history.reached.isdisjoint(router)


def _of(layer: RoutingObservation, observations: Sequence[Observation]) -> list[tuple[int, tuple[float, ...]]]:
    """Return step and load of the same layer in ``observations``, oldest first."""
    return [
        (observation.step, each.load)
        for observation in observations
        for each in observation.routing
        if (each.name, each.experts, len(each.load)) == (layer.name, layer.experts, len(layer.load))
    ]


def _mean(loads: Sequence[Sequence[float]]) -> list[float]:
    return [math.fsum(shares) / len(loads) for shares in zip(*loads, strict=True)]


def _effective(load: Sequence[float]) -> float:
    """Return the exponential of the entropy of ``load``: k experts with equal shares and no others give k."""
    return math.exp(-math.fsum(share * math.log(share) for share in load if share > 0))


def _remedies(context: RuleContext) -> tuple[Remedy, ...]:
    return (*_REMEDIES, lower_learning_rate(context))


RULE = Rule(
    kind=Kind.EXPERT_IMBALANCE,
    order=19,
    needs=frozenset({Need.OBSERVATIONS}),
    find=find_expert_imbalance,
    remedies=_remedies,
)
