"""Units that sit on a flat side of tanh, sigmoid or softmax for nearly every sample."""

from collections.abc import Iterator
from functools import partial

from lightning_gradtools.diagnosis.finding import Change, Evidence, Finding, Kind, Remedy, Severity
from lightning_gradtools.diagnosis.observation import Observation, persists
from lightning_gradtools.diagnosis.remedies import NORMALISE, SCALE_INPUTS, lower_learning_rate
from lightning_gradtools.diagnosis.rule import Need, Rule, RuleContext

WARNING, CRITICAL = 0.5, 0.95  # shares of a layer's units; half a layer: SageMaker Debugger, DeepDiagnosis
BLOCKED = 0.8  # the same
LEARNED = 0.9  # of what there is to learn
_SAMPLES = 100


def find_saturated_activation(context: RuleContext) -> Iterator[Finding]:
    """A hidden layer half of whose units are flat on 90% of samples.

    Its consequence decides: while the network learns all the same (units that decide firmly are useful), or has
    learned most of what there is, it is worth an ``info``. Where four in five of the units are, hardly any gradient
    comes through, and what is learned is learned by the layers behind: that is harmless only once all is learned.
    A softmax that chooses firmly is no such case, since each of its rows still chooses by its input.
    """
    latest, going = context.latest, context.progress
    harmless = going is None or going.gain > 0.5 or (going.improving and going.gain > 0)
    stuck = going is not None and going.nothing_learned()
    for activation in latest.activations:
        if activation.saturated < WARNING * activation.units:
            continue
        if activation.samples < _SAMPLES or not (activation.hidden or stuck):  # outputs may well be decided
            continue
        steps = persists(context.history, partial(_over, activation.name), 2)
        if not steps:
            continue
        share = activation.saturated / activation.units
        severity = Severity.CRITICAL if share >= CRITICAL else Severity.WARNING
        if harmless:
            blocks = share >= BLOCKED and activation.function != "softmax"
            to_learn = going is not None and going.gain < LEARNED
            severity = Severity.WARNING if blocks and to_learn else Severity.INFO
        threshold = CRITICAL if share >= CRITICAL else WARNING
        yield Finding(
            kind=Kind.SATURATED_ACTIVATION,
            layer=activation.name,
            step=latest.step,
            severity=severity,
            evidence=(
                Evidence(quantity="share of units that are saturated", value=share, threshold=threshold, steps=steps),
                Evidence(quantity="samples observed", value=activation.samples, threshold=_SAMPLES),
            ),
            message=(
                f"{activation.saturated} of {activation.units} {activation.function} units of {activation.name} are"
                " saturated: they lie where the function is flat for 90% of samples and pass almost no gradient"
            ),
        )


def _over(name: str, observation: Observation) -> bool:
    return any(a.name == name and a.saturated >= WARNING * a.units for a in observation.activations)


def _remedies(context: RuleContext) -> tuple[Remedy, ...]:
    return (
        SCALE_INPUTS,
        Remedy(
            sentence="Start from smaller weights.",
            change=Change.XAVIER_INIT,
            code="nn.init.xavier_normal_(layer.weight)",
        ),
        Remedy(sentence="Normalise before the activation.", change=Change.NORMALISE, code=NORMALISE.code),
        lower_learning_rate(context, why=", if it set in during training"),
    )


RULE = Rule(
    kind=Kind.SATURATED_ACTIVATION,
    order=40,
    needs=frozenset({Need.OBSERVATIONS, Need.ACTIVATIONS}),
    find=find_saturated_activation,
    remedies=_remedies,
)
