"""Ranks that are to train one network, and have different weights."""

from collections.abc import Iterator

from lightning_gradtools.diagnosis.finding import Evidence, Finding, Kind, Remedy, Severity
from lightning_gradtools.diagnosis.observation import persists
from lightning_gradtools.diagnosis.places import in_words, place, trained_layers
from lightning_gradtools.diagnosis.rule import Need, Rule, RuleContext

SPREAD = 1e-5  # of the weight's norm; what a sample notes is beyond it
_NEEDED = 3  # observations in a row: a rank may be a step behind in what its callbacks do to weights

_REMEDY = (
    Remedy(
        sentence=(
            "Have every backward pass go through the wrapped module, so that gradients are averaged:"
            " self.manual_backward(loss), and no_sync() around all but the last of a step's passes only."
        ),
        code="self.manual_backward(loss)",
    ),
    Remedy(
        sentence=(
            "Look for what one rank does to weights alone: noise, a reset or a load under `if rank == 0`, a clipping or"
            " skipping decided from this rank's numbers."
        ),
        code="for each in self.parameters(): each.data = self.trainer.strategy.broadcast(each.data)",
    ),
)


def find_replicas_out_of_step(context: RuleContext) -> Iterator[Finding]:
    """Weights that all ranks hold whole differ between them in norm or sum, again and again.

    Averaged gradients and the same optimizer keep replicas alike to the bit; the threshold leaves room for sums in any
    order. Where weights are split over ranks, or averaged now and then on purpose, they are not compared.
    """
    latest = context.latest
    steps = persists(context.history, lambda each: bool(each.loop.apart), _NEEDED)
    if not steps:
        return
    names, spread = latest.loop.apart, latest.loop.spread
    yield Finding(
        kind=Kind.REPLICAS_OUT_OF_STEP,
        layer=place(names, trained_layers(context.history)),
        step=latest.step,
        severity=Severity.CRITICAL,
        evidence=(
            Evidence(
                quantity="largest difference of a weight's norm or sum between ranks / its norm",
                value=spread,
                threshold=SPREAD,
                steps=steps,
            ),
            Evidence(quantity="parameters that differ", value=len(names), threshold=0.0),
        ),
        message=(
            f"the ranks train different networks: {in_words(names)} differ between them, by up to {spread:.1e} of the"
            " weight's norm, and what is saved is rank 0's"
        ),
    )


RULE = Rule(
    kind=Kind.REPLICAS_OUT_OF_STEP,
    order=11,
    needs=frozenset({Need.OBSERVATIONS}),
    find=find_replicas_out_of_step,
    remedies=lambda _: _REMEDY,
)
