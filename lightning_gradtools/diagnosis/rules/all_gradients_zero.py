"""No layer at all gets a gradient."""

from collections.abc import Iterator

from lightning_gradtools.diagnosis.finding import Evidence, Finding, Kind, Remedy, Severity
from lightning_gradtools.diagnosis.observation import History, Observation, persists
from lightning_gradtools.diagnosis.rule import Need, Rule, RuleContext

_NEEDED = 2  # observations in a row where the loss is known not to be zero
_NEEDED_WITHOUT_LOSS = 4

_REMEDY = (
    Remedy(
        sentence=(
            "Look at the end of the network: a softmax over one unit is always 1, a sigmoid or tanh far from zero is"
            " flat, and a clamp, round or argmax passes nothing on."
        ),
        code="loss = F.binary_cross_entropy_with_logits(logits, target.float())",
    ),
    Remedy(
        sentence="Scale inputs and initial weights, if the output is far out on a flat side.",
        code="inputs = (inputs - mean) / std",
    ),
)


def find_all_gradients_zero(context: RuleContext) -> Iterator[Finding]:
    """The gradient of every trained layer is exactly zero, while the loss is not.

    Exactly zero, not small: no threshold. A loss that is zero has nothing left to learn, and units that are all dead
    are a finding of their own.
    """
    history, latest = context.history, context.latest
    zero_loss = any(loss == 0 for _, loss in history.losses[-_NEEDED:])
    needed = _NEEDED if history.losses else _NEEDED_WITHOUT_LOSS
    steps = persists(history, _all_zero, needed)
    if not steps or zero_loss or any(each.dead == each.units for each in latest.activations):
        return
    layers = [layer for layer in latest.layers if layer.trainable]
    yield Finding(
        kind=Kind.NO_GRADIENT,
        layer="",
        step=latest.step,
        severity=Severity.CRITICAL,
        evidence=(
            Evidence(quantity="norm of the gradient of all weights", value=0.0, threshold=0.0, steps=steps),
            Evidence(quantity="trained layers", value=len(layers), threshold=0.0),
        ),
        message=_message(history, len(layers)),
    )


def _all_zero(observation: Observation) -> bool:
    gradients = [layer.gradient for layer in observation.layers if layer.trainable]
    return 0.0 in gradients and not any(gradients)


def _message(history: History, layers: int) -> str:
    loss = f" while the loss is {history.losses[-1][1]:.4g}" if history.losses else ""
    return f"the gradient of all {layers} trained layers is exactly zero{loss}: nothing is learned"


RULE = Rule(
    kind=Kind.NO_GRADIENT,
    order=45,
    needs=frozenset({Need.OBSERVATIONS}),
    find=find_all_gradients_zero,
    remedies=lambda _: _REMEDY,
    is_exclusive=True,
)
