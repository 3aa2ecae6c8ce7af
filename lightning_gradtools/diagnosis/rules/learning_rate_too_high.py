"""A learning rate at which the first steps throw the weights about, in a run that fails."""

from collections.abc import Iterator

from lightning_gradtools.diagnosis.finding import Evidence, Finding, Kind, Severity
from lightning_gradtools.diagnosis.observation import Observation
from lightning_gradtools.diagnosis.progress import patience, too_slow
from lightning_gradtools.diagnosis.remedies import WARM_UP, lower_learning_rate
from lightning_gradtools.diagnosis.rule import Need, Rule, RuleContext
from lightning_gradtools.diagnosis.rules.vanishing_gradient import RATIO, end_to_end
from lightning_gradtools.diagnosis.updates import LONG_STEP, TOO_LONG_STEP, early_update, typical_update

RISE = 1.5  # times the least of the first losses, once batches cannot be the reason any more
FAR_UP = 3.0  # the same at once
_STEPS = 20  # losses, to know whether the loss has risen
_MAJORITY = 0.5  # of a layer's units


def find_learning_rate_too_high(context: RuleContext) -> Iterator[Finding]:
    """First steps of a tenth of the weights and more in a run that fails.

    Failed are a run whose values are not finite any more, whose loss stands above its own beginning, and one that has
    learned next to nothing. Shorter first steps, from :data:`~..updates.LONG_STEP` on, are the cause where the network
    was sound at first and has collapsed since: gradients that came back to the first layer do not any more, or most
    units of a layer have died or saturated.
    """
    history = context.history
    collapsed = _has_collapsed(context)
    steps = _STEPS if collapsed else patience(history)
    failure = _not_finite(context) or _risen(context) or _fruitless(context, steps)
    if failure is None or context.latest.learning_rate == 0:
        return
    evidence, what = failure
    grown = max(map(typical_update, history.observations))  # up to where values were not finite any more
    ratio = grown if context.nonfinite else early_update(history)
    if ratio < (LONG_STEP if collapsed else TOO_LONG_STEP):
        return
    yield Finding(
        kind=Kind.LEARNING_RATE_TOO_HIGH,
        layer="",
        step=context.latest.step,
        severity=Severity.CRITICAL,
        evidence=(
            Evidence(
                quantity="change of the weights in one of the first steps / weights",
                value=ratio,
                threshold=TOO_LONG_STEP,
                steps=history.first_observations[-1].step + 1,
            ),
            evidence,
        ),
        message=(
            f"the learning rate of {context.latest.learning_rate:.3g} is too high: the first steps changed the weights"
            f" by {ratio:.2g} of themselves each (1e-3 is usual), and {what}"
        ),
        remedy=(lower_learning_rate(context, times=100 if ratio > 10 * TOO_LONG_STEP else 10), WARM_UP),
    )


def _not_finite(context: RuleContext) -> tuple[Evidence, str] | None:
    if not context.nonfinite or context.nonfinite[0].direction == "input data":
        return None
    step = context.nonfinite[0].step
    evidence = Evidence(quantity="step of the first non-finite value", value=step, threshold=-1)
    return evidence, f"values were not finite at step {step}"


def _risen(context: RuleContext) -> tuple[Evidence, str] | None:
    history, going = context.history, context.progress
    if going is None or going.steps < _STEPS or history.warming_up() or going.improving:
        return None
    least = min(history.first_losses)
    if not 0 < RISE * least < going.level:
        return None
    rise = going.level / least
    if rise < FAR_UP and history.step + 1 < patience(history):
        return None
    evidence = Evidence(quantity="loss / least of the first losses", value=rise, threshold=RISE, steps=going.steps)
    return evidence, f"the loss stands at {going.level:.4g}, {rise:.2g} times what it began with"


def _fruitless(context: RuleContext, steps: int) -> tuple[Evidence, str] | None:
    history, going = context.history, context.progress
    if going is None or history.step + 1 < steps or history.warming_up():
        return None
    if not (going.nothing_learned() or too_slow(history, going)):
        return None
    quantity = "learned, as a share of what there is"
    evidence = Evidence(quantity=quantity, value=going.gain, threshold=0.1, steps=going.steps)
    return evidence, f"the loss stands at {going.level:.4g}, with next to nothing learned"


def _has_collapsed(context: RuleContext) -> bool:
    first, latest = context.history.first_observations[0], context.latest
    if end_to_end(first) >= 10 * RATIO and 0 <= end_to_end(latest) < RATIO:
        return True
    before, now = _idle(first), _idle(latest)
    return any(share > _MAJORITY and before.get(name, 0.0) <= 0.1 for name, share in now.items())


def _idle(observation: Observation) -> dict[str, float]:
    """Return the share of units that are dead or saturated, by activation."""
    return {each.name: max(each.dead, each.saturated) / each.units for each in observation.activations}


RULE = Rule(
    kind=Kind.LEARNING_RATE_TOO_HIGH,
    order=-10,  # a value that is not finite, which silences all rules behind, may follow from it
    needs=frozenset({Need.OBSERVATIONS}),
    find=find_learning_rate_too_high,
    remedies=lambda _: (),
)
