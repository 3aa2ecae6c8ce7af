"""A learning rate at which no layer gets anywhere in the steps that the run has."""

from collections.abc import Iterator

from lightning_gradtools.diagnosis.finding import Evidence, Finding, Kind, Remedy, Severity
from lightning_gradtools.diagnosis.observation import Observation
from lightning_gradtools.diagnosis.progress import patience, too_slow
from lightning_gradtools.diagnosis.remedies import raise_learning_rate
from lightning_gradtools.diagnosis.rule import Need, Rule, RuleContext

SMALL = 0.5  # change of the weights over the whole run / weights, of the layer that moves most


def find_learning_rate_too_low(context: RuleContext) -> Iterator[Finding]:
    """Nothing is learned, and even the layer that moves most would not change by half of itself in the whole run.

    The layer that moves most, as where gradients vanish those behind move well. Where most units of an activation are
    dead or saturated, or a layer gets no gradient, the weights stand still for another reason.
    """
    history, going, rate = context.history, context.progress, context.latest.learning_rate
    assert going is not None  # a need of this rule
    if history.planned_steps is None or rate == 0 or history.warming_up():
        return
    if history.step + 1 < patience(history) or not (going.nothing_learned() or too_slow(history, going)):
        return
    most = max(history.largest_update.values(), default=0.0) * history.planned_steps
    if not 0 < most < SMALL or _is_blocked(context.latest):
        return
    yield Finding(
        kind=Kind.LEARNING_RATE_TOO_LOW,
        layer="",
        step=context.latest.step,
        severity=Severity.WARNING,
        evidence=(
            Evidence(
                quantity="change of the weights in the whole run / weights, of the layer that moves most",
                value=most,
                threshold=SMALL,
                steps=history.step + 1,
            ),
            Evidence(
                quantity="learned, as a share of what there is", value=going.gain, threshold=0.1, steps=going.steps
            ),
        ),
        message=(
            f"the learning rate of {rate:.3g} is too low: at the largest steps so far no layer would change by more"
            f" than {most:.2g} of itself in all {history.planned_steps} steps, and the loss stands at {going.level:.4g}"
        ),
        remedy=(
            raise_learning_rate(context, times=100 if most < 0.1 * SMALL else 10),
            Remedy(sentence="Or train for longer: the steps that are planned do not get there."),
        ),
    )


def _is_blocked(latest: Observation) -> bool:
    idle = any(2 * max(each.dead, each.saturated) > each.units for each in latest.activations)
    return idle or any(layer.trainable and layer.ran and not layer.gradient for layer in latest.layers)


RULE = Rule(
    kind=Kind.LEARNING_RATE_TOO_LOW,
    order=75,
    needs=frozenset({Need.OBSERVATIONS, Need.PROGRESS}),
    find=find_learning_rate_too_low,
    remedies=lambda _: (),
)
