"""Parameters that get a gradient, and that no optimizer has."""

from collections.abc import Iterator

from lightning_gradtools.diagnosis.finding import Evidence, Finding, Kind, Remedy, Severity
from lightning_gradtools.diagnosis.observation import persists
from lightning_gradtools.diagnosis.places import in_words, place
from lightning_gradtools.diagnosis.rule import Need, Rule, RuleContext

MINORITY = 0.5  # of all elements with a gradient
_NEEDED = 3  # observations in a row


def find_not_optimized(context: RuleContext) -> Iterator[Finding]:
    """Parameters with a gradient that are in no optimizer of the run, on several samples in a row.

    That is exact; whether it is meant is not. Whoever trains a head on a backbone, adapters or biases, or measures a
    loss by a pretrained network, and gives the optimizer these alone, leaves most elements out: that is ``info``. A
    few left out of many are forgotten, and where next to nothing is learned even many are. All of them are so where a
    network was replaced after the optimizer was made.
    """
    history, latest = context.history, context.latest
    steps = persists(history, lambda each: bool(each.loop.unoptimized), _NEEDED)
    if not steps:
        return
    names, share = latest.loop.unoptimized, latest.loop.unoptimized_share
    going = context.progress
    stuck = going is not None and going.steps >= 20 and going.nothing_learned() and not history.warming_up()
    severity = Severity.CRITICAL if share == 1 else Severity.WARNING if share < MINORITY or stuck else Severity.INFO
    layer = place(names, ()) if share < 1 else ""
    where = "all parameters with a gradient" if share == 1 else in_words(names)
    yield Finding(
        kind=Kind.NOT_OPTIMIZED,
        layer=layer or (names[0] if share < 1 else ""),
        step=latest.step,
        severity=severity,
        evidence=(
            Evidence(
                quantity="norm of the gradient of parameters in no optimizer",
                value=latest.loop.unoptimized_norm,
                threshold=0.0,
                steps=steps,
            ),
            Evidence(quantity="their share of all elements with a gradient", value=share, threshold=MINORITY),
        ),
        message=(
            f"no optimizer has {where}: a gradient of norm {latest.loop.unoptimized_norm:.3g} reaches"
            f" {'it' if len(names) == 1 else 'them'}, and no step uses it"
        ),
        remedy=_remedies(names, layer),
    )


def _remedies(names: tuple[str, ...], layer: str) -> tuple[Remedy, ...]:
    owner = f"self.{layer}" if layer else "self"
    single = len(names) == 1
    freeze = f"self.{names[0]}.requires_grad_(False)" if single else f"{owner}.requires_grad_(False)"
    parameters = f"[self.{names[0]}]" if single else f"{owner}.parameters()"
    return (
        Remedy(
            sentence=(
                "Give it to the optimizer in configure_optimizers; of a layer that was made or replaced after the"
                " optimizer, make the optimizer after it."
            ),
            code=f"optimizer.add_param_group({{'params': {parameters}}})",
        ),
        Remedy(
            sentence="If it is not to be trained, freeze it, which also saves its part of the backward pass.",
            code=freeze,
        ),
    )


RULE = Rule(
    kind=Kind.NOT_OPTIMIZED,
    order=15,
    needs=frozenset({Need.OBSERVATIONS}),
    find=find_not_optimized,
    remedies=lambda _: (),
)
