"""Units that sit on a flat side of tanh, sigmoid or softmax for nearly every sample."""

from collections.abc import Iterator
from functools import partial

from lightning_gradtools.diagnosis.finding import Evidence, Finding, Kind, Remedy, Severity
from lightning_gradtools.diagnosis.observation import History, Observation, persists
from lightning_gradtools.diagnosis.progress import progress

WARNING, CRITICAL = 0.5, 0.95  # shares of a layer's units; half a layer: SageMaker Debugger, DeepDiagnosis
BLOCKED = 0.8  # the same
LEARNED = 0.9  # of what there is to learn
_SAMPLES = 100

_REMEDY = (
    Remedy("Scale the inputs to zero mean and unit variance."),
    Remedy(
        "Start from smaller weights.",
        ("model.net.init=xavier", "model.net.init_scale=1"),
        "nn.init.xavier_normal_(layer.weight)",
    ),
    Remedy("Normalise before the activation.", ("model.net.norm=layer",), "nn.LayerNorm(width)"),
    Remedy("Lower the learning rate, if it set in during training.", ("optimizer.lr=0.001",)),
)


def find_saturated_activation(history: History) -> Iterator[Finding]:
    """A hidden layer half of whose units are flat on 90% of samples.

    Its consequence decides: while the network learns all the same (units that decide firmly are useful), or has
    learned most of what there is, it is worth an ``info``. Where four in five of the units are, hardly any gradient
    comes through, and what is learned is learned by the layers behind: that is harmless only once all is learned.
    A softmax that chooses firmly is no such case, since each of its rows still chooses by its input.
    """
    if not history.observations:
        return
    latest = history.observations[-1]
    going = progress(history)
    harmless = going is None or going.gain > 0.5 or (going.improving and going.gain > 0)
    stuck = going is not None and going.nothing_learned()
    for activation in latest.activations:
        if activation.saturated < WARNING * activation.units:
            continue
        if activation.samples < _SAMPLES or not (activation.hidden or stuck):  # outputs may well be decided
            continue
        steps = persists(history, partial(_over, activation.name), 2)
        if not steps:
            continue
        share = activation.saturated / activation.units
        severity = Severity.CRITICAL if share >= CRITICAL else Severity.WARNING
        if harmless:
            blocks = share >= BLOCKED and activation.function != "softmax"
            to_learn = going is not None and going.gain < LEARNED
            severity = Severity.WARNING if blocks and to_learn else Severity.INFO
        message = (
            f"{activation.saturated} of {activation.units} {activation.function} units of {activation.name} are"
            " saturated: they lie where the function is flat for 90% of samples and pass almost no gradient"
        )
        evidence = (
            Evidence("share of units that are saturated", share, CRITICAL if share >= CRITICAL else WARNING, steps),
            Evidence("samples observed", activation.samples, _SAMPLES),
        )
        yield Finding(Kind.SATURATED_ACTIVATION, activation.name, latest.step, severity, evidence, message, _REMEDY)


def _over(name: str, observation: Observation) -> bool:
    return any(a.name == name and a.saturated >= WARNING * a.units for a in observation.activations)
