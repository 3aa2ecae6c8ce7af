"""Units that no sample makes fire, in layers where they are the majority."""

from collections.abc import Iterator

from lightning_gradtools.diagnosis.finding import Evidence, Finding, Kind, Remedy, Severity
from lightning_gradtools.diagnosis.observation import History

INFO, WARNING, CRITICAL = 0.1, 0.5, 0.95  # shares of a layer's units; over half: SageMaker Debugger, TheDeepChecker

_REMEDY = (
    Remedy("Lower the learning rate: a large step pushes a unit below zero for every input.", ("optimizer.lr=0.001",)),
    Remedy(
        "Warm the learning rate up: most units die in the first steps.",
        ("schedule=warmup_cosine",),
        "WarmupCosineSchedule()",
    ),
    Remedy(
        "Use an activation that passes some gradient below zero.",
        ("model.net.activation=leaky_relu",),
        "nn.LeakyReLU(0.01)",
    ),
    Remedy("Check that biases start at zero, not far below it.", ("model.net.init=he",)),
)


def find_dead_relu(history: History) -> Iterator[Finding]:
    """A layer most of whose units have been silent on hundreds of samples in a row.

    Dead is a property of a unit (a channel, for a convolution) over many batches: see
    :class:`~lightning_gradtools.activations.DeadUnits`.
    """
    if not history.observations:
        return
    latest = history.observations[-1]
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
        message = (
            f"{activation.dead} of {activation.units} {activation.function} units of {activation.name} are dead:"
            f" no sample makes them fire, so they get no gradient ({when})"
        )
        evidence = (
            Evidence("share of units that are dead", share, threshold, _since(history, activation.name, threshold)),
            Evidence("samples observed", activation.samples, 0),
            Evidence("units that never fired", activation.never_fired, 0),
            Evidence("units that fired again after being dead", activation.revived, 0),
        )
        yield Finding(Kind.DEAD_RELU, activation.name, latest.step, severity, evidence, message, _REMEDY)


def _since(history: History, name: str, threshold: float) -> int:
    first = history.observations[-1].step
    for observation in reversed(history.observations):
        if observation.dead_shares.get(name, 0.0) < threshold:
            break
        first = observation.step
    return history.observations[-1].step - first + 1
