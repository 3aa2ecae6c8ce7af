"""Units that no sample makes fire, in layers where they are the majority."""

from collections.abc import Iterator

from lightning_gradtools.diagnosis.finding import Change, Evidence, Finding, Kind, Remedy, Severity
from lightning_gradtools.diagnosis.observation import History
from lightning_gradtools.diagnosis.remedies import lower_learning_rate
from lightning_gradtools.diagnosis.rule import Need, Rule, RuleContext

INFO, WARNING, CRITICAL = 0.1, 0.5, 0.95  # shares of a layer's units; over half: SageMaker Debugger, TheDeepChecker


def find_dead_relu(context: RuleContext) -> Iterator[Finding]:
    """A layer most of whose units have been silent on hundreds of samples in a row.

    Dead is a property of a unit (a channel, for a convolution) over many batches: see
    :class:`~lightning_gradtools.activations.DeadUnits`.
    """
    history, latest = context.history, context.latest
    for activation in latest.activations:
        share = activation.dead / activation.units
        if share < INFO:
            continue
        severity = Severity.CRITICAL if share >= CRITICAL else Severity.WARNING if share > WARNING else Severity.INFO
        threshold = {Severity.INFO: INFO, Severity.WARNING: WARNING, Severity.CRITICAL: CRITICAL}[severity]
        when = (
            "never fired"
            if activation.never_fired == activation.dead
            else f"the last died at step {activation.last_death}"
        )
        yield Finding(
            kind=Kind.DEAD_RELU,
            layer=activation.name,
            step=latest.step,
            severity=severity,
            evidence=(
                Evidence(
                    quantity="share of units that are dead",
                    value=share,
                    threshold=threshold,
                    steps=_since(history, activation.name, threshold),
                ),
                Evidence(quantity="samples observed", value=activation.samples, threshold=0),
                Evidence(quantity="units that never fired", value=activation.never_fired, threshold=0),
                Evidence(quantity="units that fired again after being dead", value=activation.revived, threshold=0),
            ),
            message=(
                f"{activation.dead} of {activation.units} {activation.function} units of {activation.name} are dead:"
                f" no sample makes them fire, so they get no gradient ({when})"
            ),
        )


def _since(history: History, name: str, threshold: float) -> int:
    first = history.observations[-1].step
    for observation in reversed(history.observations):
        if observation.dead_shares.get(name, 0.0) < threshold:
            break
        first = observation.step
    return history.observations[-1].step - first + 1


def _remedies(context: RuleContext) -> tuple[Remedy, ...]:
    return (
        lower_learning_rate(context, why=": a large step pushes a unit below zero for every input"),
        Remedy(
            sentence="Warm the learning rate up: most units die in the first steps.",
            change=Change.WARM_UP,
            code="WarmupCosineSchedule()",
        ),
        Remedy(
            sentence="Use an activation that passes some gradient below zero.",
            change=Change.USE_LEAKY_RELU,
            code="nn.LeakyReLU(0.01)",
        ),
        Remedy(
            sentence="Check that biases start at zero, not far below it.",
            change=Change.HE_INIT,
            code="nn.init.zeros_(layer.bias)",
        ),
    )


RULE = Rule(
    kind=Kind.DEAD_RELU,
    order=30,
    needs=frozenset({Need.OBSERVATIONS, Need.ACTIVATIONS}),
    find=find_dead_relu,
    remedies=_remedies,
)
