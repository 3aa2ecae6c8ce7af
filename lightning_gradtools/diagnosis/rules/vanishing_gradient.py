r"""The gradient shrinks on its way back through the layers, and the network does not learn.

The chain rule: :math:`\partial L / \partial h_\ell = J_{\ell+1}^\top \cdots J_n^\top \, \partial L / \partial h_n`. The
ratio of the norms at the first and the largest later layer is the product of the layers' backward gains; it does not
depend on the loss, its scale, the batch size or the learning rate.
"""

import math
from collections.abc import Iterator

from lightning_gradtools.diagnosis.finding import Change, Evidence, Finding, Kind, Remedy, Severity
from lightning_gradtools.diagnosis.observation import Observation, persists
from lightning_gradtools.diagnosis.remedies import HE_INIT, NORMALISE
from lightning_gradtools.diagnosis.rule import Need, Rule, RuleContext

RATIO = 1e-3  # AutoTrainer's ratio of the first layer's gradient to the last's (Zhang et al. 2021, ICSE)
_LEAST_LAYERS = 4
_NEEDED = 3  # observations in a row
_LOSSES = 20  # to know whether the loss moves

_REMEDY = (
    Remedy(
        sentence="Use ReLU-like activations with He initialisation: their slope is 1, a sigmoid's at most 0.25.",
        change=Change.USE_RELU,
        code=HE_INIT.code,
    ),
    Remedy(
        sentence="Add residual connections: each layer then passes on what comes back to it.",
        change=Change.ADD_RESIDUAL,
        code="x + layer(x)",
    ),
    NORMALISE,
    Remedy(sentence="Make the network shallower.", change=Change.LESS_DEPTH),
)


def end_to_end(observation: Observation) -> float:
    """Return the norm of the loss gradient at the first trained layer over the largest behind it; 1 if too short."""
    layers = observation.chain
    trained = next((i for i, layer in enumerate(layers) if layer.trainable), None)
    if trained is None or len(layers) - trained < _LEAST_LAYERS:
        return 1.0
    largest = max(layer.backward or 0.0 for layer in layers[trained + 1 :])
    return (layers[trained].backward or 0.0) / largest if largest > 0 and math.isfinite(largest) else 1.0


def find_vanishing_gradient(context: RuleContext) -> Iterator[Finding]:
    """The ratio is under :data:`RATIO`, again and again, and the network has learned next to nothing.

    The finding names the first trained layer.
    """
    history, latest, going = context.history, context.latest, context.progress
    steps = persists(history, lambda each: 0 < end_to_end(each) < RATIO, _NEEDED)
    if not steps:
        return
    layers = latest.chain
    first = next(layer for layer in layers if layer.trainable)
    ratio = end_to_end(latest)
    behind = len(layers) - layers.index(first) - 1
    sick = going is not None and going.steps >= _LOSSES and going.nothing_learned() and not history.warming_up()
    severity = Severity.INFO
    if sick:
        severity = Severity.CRITICAL if ratio < RATIO**2 else Severity.WARNING
    evidence = [
        Evidence(
            quantity="norm of the loss gradient at the first layer / the largest behind it",
            value=ratio,
            threshold=RATIO,
            steps=steps,
        )
    ]
    evidence.append(
        Evidence(
            quantity="backward gain per layer (geometric mean)",
            value=ratio ** (1 / behind),
            threshold=RATIO ** (1 / behind),
        )
    )
    if going is not None:
        evidence.append(
            Evidence(
                quantity="learned, as a share of what there is", value=going.gain, threshold=0.1, steps=going.steps
            )
        )
    yield Finding(
        kind=Kind.VANISHING_GRADIENT,
        layer=first.name,
        step=latest.step,
        severity=severity,
        evidence=tuple(evidence),
        message=(
            f"the gradient vanishes on its way back to {first.name}: {ratio:.1e} of what enters is left there, a"
            f" factor of {ratio ** (1 / behind):.2g} for each of {behind} layers"
            + (", and the loss hardly moves" if sick else "; the network learns all the same")
        ),
    )


RULE = Rule(
    kind=Kind.VANISHING_GRADIENT,
    order=50,
    needs=frozenset({Need.OBSERVATIONS}),
    find=find_vanishing_gradient,
    remedies=lambda _: _REMEDY,
)
