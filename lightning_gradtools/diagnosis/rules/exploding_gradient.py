"""The loss runs away, or the gradient grows at every layer on its way back and the network does not learn."""

from collections.abc import Iterator

from lightning_gradtools.diagnosis.finding import Change, Evidence, Finding, Kind, Remedy, Severity
from lightning_gradtools.diagnosis.observation import Observation, persists
from lightning_gradtools.diagnosis.progress import TRANSIENT, patience
from lightning_gradtools.diagnosis.remedies import CLIP_NORM, HE_INIT, WARM_UP, lower_learning_rate
from lightning_gradtools.diagnosis.rule import Need, Rule, RuleContext

WORSE = 2.0  # times the baseline loss
RUNAWAY = 3.0  # times the loss at the start, where the baseline is not known
ITS_OWN = 1.2  # times the least of the first losses
JUMP = 10.0  # times the baseline loss, and that at the start, twice running
GROWTH = 1e3  # backward, end to end


def find_exploding_gradient(context: RuleContext) -> Iterator[Finding]:
    """A loss far above its start, or above the baseline, that stays; or a profile that grows backward."""
    evidence = _divergence(context)
    if evidence is not None:
        yield _diverging(context, evidence)
    else:
        yield from _growing_backward(context)


def _divergence(context: RuleContext) -> Evidence | None:
    history, going = context.history, context.progress
    skills = [each.skill for each in history.observations if each.skill is not None]
    first = max(1.0, 1 - skills[0]) if skills else 1.0
    # one is an outlier
    if steps := persists(history, lambda each: each.skill is not None and 1 - each.skill > JUMP * first, 2):
        return Evidence(
            quantity="loss / loss of a constant prediction", value=1 - skills[-1], threshold=JUMP * first, steps=steps
        )
    if going is None:
        return None
    if len(skills) >= 3:
        now, start = going.gain, skills[0]
        # A few first losses cannot tell; and one that began high up, as with weights from elsewhere, may take longer.
        risen = going.level > ITS_OWN * min(history.first_losses)
        stays = history.step + 1 >= (TRANSIENT if risen else patience(history)) and not going.improving
        worse = WORSE * history.offset()  # than predicting zero, where that is worse than the best constant
        if 1 - now > worse and (stays or 1 - now > worse * max(1.0, 1 - start)):
            steps = persists(history, lambda each: each.skill is not None and 1 - each.skill > worse, 3)
            if steps:
                return Evidence(
                    quantity="loss / loss of a constant prediction", value=1 - now, threshold=worse, steps=steps
                )
    elif not skills and 0 < RUNAWAY * max(history.first_losses) < going.level and not going.improving:
        return Evidence(
            quantity="loss / loss at the start", value=going.level / going.start, threshold=RUNAWAY, steps=going.steps
        )
    return None


def _diverging(context: RuleContext, evidence: Evidence) -> Finding:
    latest = context.latest
    ratios = {layer.name: layer.update_ratio for layer in latest.layers if layer.update_ratio == layer.update_ratio}
    layer = max(ratios, key=lambda name: ratios[name], default="")
    moved: tuple[Evidence, ...] = ()
    if layer:
        quantity = f"change of the weights in one step / weights, in {layer}"
        moved = (Evidence(quantity=quantity, value=ratios[layer], threshold=0.1),)
    numerator, denominator = evidence.quantity.split(" / ")
    return Finding(
        kind=Kind.EXPLODING_GRADIENT,
        layer=layer,
        step=latest.step,
        severity=Severity.CRITICAL if evidence.value > 10 else Severity.WARNING,
        evidence=(evidence, *moved),
        message=(
            f"training diverges: the {numerator} is {evidence.value:.3g} times the {denominator} and does not come down"
        ),
    )


def _growing_backward(context: RuleContext) -> Iterator[Finding]:
    history, going = context.history, context.progress
    steps = persists(history, lambda each: growth(each)[0] > GROWTH, 3)
    if going is None or not steps:
        return
    ratio, layer = growth(context.latest)
    sick = going.steps >= 20 and going.nothing_learned() and not history.warming_up()
    yield Finding(
        kind=Kind.EXPLODING_GRADIENT,
        layer=layer,
        step=context.latest.step,
        severity=Severity.WARNING if sick else Severity.INFO,
        evidence=(
            Evidence(
                quantity="largest norm of the loss gradient at a layer / that at the last",
                value=ratio,
                threshold=GROWTH,
                steps=steps,
            ),
        ),
        message=(
            f"the gradient explodes on its way back: at {layer} it is {ratio:.1e} times what enters at the last layer"
        ),
    )


def growth(observation: Observation) -> tuple[float, str]:
    """Return the largest norm of the loss gradient at a layer's output over that at the last layer's, and the layer."""
    layers = observation.chain
    if not layers or not layers[-1].backward:
        return 1.0, ""
    top = max(layers, key=lambda layer: layer.backward or 0.0)
    return (top.backward or 0.0) / layers[-1].backward, top.name


def _remedies(context: RuleContext) -> tuple[Remedy, ...]:
    return (
        lower_learning_rate(context),
        CLIP_NORM,
        WARM_UP,
        Remedy(
            sentence="Scale inputs, targets and initial weights to unit variance.",
            change=Change.HE_INIT,
            code=HE_INIT.code,
        ),
    )


RULE = Rule(
    kind=Kind.EXPLODING_GRADIENT,
    order=60,
    needs=frozenset({Need.OBSERVATIONS}),
    find=find_exploding_gradient,
    remedies=_remedies,
)
