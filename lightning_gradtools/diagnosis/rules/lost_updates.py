"""Steps that are taken and do not arrive in the weights."""

import math
import statistics
from collections.abc import Iterator

from lightning_gradtools.diagnosis.finding import Evidence, Finding, Kind, Remedy, Severity
from lightning_gradtools.diagnosis.observation import Observation
from lightning_gradtools.diagnosis.rule import Need, Rule, RuleContext

LOST = 0.5  # of the elements with a gradient
NEARLY_ALL = 0.9  # from which on digits in bfloat16 learned next to nothing of what they did in float32
HALF_LEARNED = 0.5  # a network that has learned moves less from step to step, and need not move any more
NEAR_PEAK = 0.5  # of the largest learning rate so far: on its way to zero, every update gets too small at last
_NEEDED = 4  # observations in a row

_MASTER_WEIGHTS = Remedy(
    sentence="Keep the weights in float32 and compute in low precision.", code="Trainer(precision='bf16-mixed')"
)
_STOCHASTIC = Remedy(
    sentence="Use an optimizer that rounds at random or adds up what was rounded away (Kahan summation)."
)
_LOOK = Remedy(
    sentence=(
        "See that the optimizer was made of the parameters that are trained, and that an override of optimizer_step"
        " takes the step."
    ),
    code="optimizer.step(closure=optimizer_closure)",
)


def find_lost_updates(context: RuleContext) -> Iterator[Finding]:
    """Weights that stay as they are though an optimizer steps with gradients that are not zero.

    - In low precision, an update under half the distance between two numbers is rounded away: a share of elements.
      Only where torch's own optimizers keep no other weights. A rate that is on its way up or down is not judged.
    - In any precision: none has changed since the run began, at a learning rate above zero.
    """
    history = context.history
    recent = history.observations[-_NEEDED:]
    if len(recent) < _NEEDED:
        return
    shares = [each.loop.lost for each in recent if each.loop.lost is not None]
    rate, peak = context.latest.learning_rate, history.peak_learning_rate
    if len(shares) == _NEEDED and min(shares) >= LOST and rate >= NEAR_PEAK * peak > 0 and not history.warming_up():
        yield _rounded_away(context, statistics.median(shares))
    elif not history.scheduled and rate > 0 and all(map(_stands_still, history.observations)):
        yield _never_moved(context)


def _stands_still(observation: Observation) -> bool:
    trained = [layer for layer in observation.layers if layer.trainable]
    with_gradient = [layer for layer in trained if layer.gradient and math.isfinite(layer.gradient)]
    return (
        bool(with_gradient)
        and len(with_gradient) == len([each for each in trained if each.gradient])
        and all(layer.update == 0 for layer in trained)
    )


def _rounded_away(context: RuleContext, share: float) -> Finding:
    latest, going = context.latest, context.progress
    hinders = going is not None and going.gain < HALF_LEARNED
    return Finding(
        kind=Kind.LOST_UPDATES,
        layer="",
        step=latest.step,
        severity=Severity.WARNING if share >= NEARLY_ALL and hinders else Severity.INFO,
        evidence=(
            Evidence(
                quantity="share of weights with a gradient that a step leaves unchanged",
                value=share,
                threshold=NEARLY_ALL if share >= NEARLY_ALL else LOST,
                steps=latest.step - context.history.observations[-_NEEDED].step + 1,
            ),
            Evidence(quantity="learning rate", value=latest.learning_rate, threshold=0.0),
        ),
        message=(
            f"{share:.0%} of the weights that have a gradient do not change in a step: at a learning rate of"
            f" {latest.learning_rate:.1e} an update is smaller than what {latest.loop.precision} can add to them"
        ),
        remedy=(_MASTER_WEIGHTS, _STOCHASTIC),
    )


def _never_moved(context: RuleContext) -> Finding:
    latest = context.latest
    gradient = math.hypot(*(layer.gradient or 0.0 for layer in latest.layers))
    return Finding(
        kind=Kind.LOST_UPDATES,
        layer="",
        step=latest.step,
        severity=Severity.CRITICAL,
        evidence=(
            Evidence(
                quantity="change of all weights since the start",
                value=0.0,
                threshold=0.0,
                steps=context.history.step + 1,
            ),
            Evidence(quantity="norm of their gradient", value=gradient, threshold=0.0),
            Evidence(quantity="learning rate", value=latest.learning_rate, threshold=0.0),
        ),
        message=(
            f"no step has changed a weight, though the learning rate is {latest.learning_rate:.1e} and the gradient has"
            f" a norm of {gradient:.3g}"
        ),
        remedy=(_LOOK,),
    )


RULE = Rule(
    kind=Kind.LOST_UPDATES,
    order=17,
    needs=frozenset({Need.OBSERVATIONS}),
    find=find_lost_updates,
    remedies=lambda _: (),
)
