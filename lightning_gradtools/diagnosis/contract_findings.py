"""What the rules on contracts between network, loss and data have in common: findings of calls, and remedies."""

from collections.abc import Callable, Iterator

from lightning_gradtools.diagnosis.contracts import LossCall, loss_calls
from lightning_gradtools.diagnosis.finding import Change, Evidence, Finding, Kind, Remedy, Severity
from lightning_gradtools.diagnosis.remedies import SCALE_INPUTS
from lightning_gradtools.diagnosis.rule import RuleContext

Part = Callable[[RuleContext, LossCall], Finding | None]


def worst_by_layer(context: RuleContext, *parts: Part) -> Iterator[Finding]:
    """Yield for each layer the worst of what is found of its losses: of each loss what the first of ``parts`` finds."""
    found: dict[str, Finding] = {}
    for call in loss_calls(context.history.contracts):
        each = next((new for part in parts if (new := part(context, call)) is not None), None)
        if each is not None and (each.layer not in found or each.severity > found[each.layer].severity):
            found[each.layer] = each
    yield from found.values()


def finding_of(
    kind: Kind,
    context: RuleContext,
    call: LossCall,
    severity: Severity,
    message: str,
    evidence: Evidence,
    *remedies: Remedy,
) -> Finding:
    """Return a finding of the layer before a loss."""
    return Finding(
        kind=kind,
        layer=call.layer,
        step=context.history.step,
        severity=severity,
        evidence=(evidence,),
        message=message,
        remedy=remedies,
    )


def is_only_loss(context: RuleContext) -> bool:
    """Say whether one loss of known kind is computed, in one place: it is what training is about."""
    return len(loss_calls(context.history.contracts)) == 1


def place(call: LossCall) -> str:
    """Return the layer before a loss, in words."""
    return call.layer or "the network"


def classes_remedy(highest: float) -> Remedy:
    """Return the advice for targets that are numbers of classes, the largest of which is ``highest``."""
    return Remedy(
        sentence=f"If the targets are classes, give the last layer {highest + 1:.0f} units and use cross_entropy.",
        code="loss = F.cross_entropy(logits, target.long())",
    )


def standardise(what: str, mean: float, deviation: float) -> Remedy:
    """Return the advice to shift and scale inputs or targets to zero mean and unit variance.

    Args:
        what: the name of a variable.
        mean: as observed.
        deviation: as observed; 0 where they do not differ.
    """
    code = f"{what} = ({what} - {mean:.4g}) / {deviation:.4g}" if deviation > 0 else f"{what} = {what} - {mean:.4g}"
    sentence = SCALE_INPUTS.sentence if what == "x" else "Scale the targets to zero mean and unit variance."
    return Remedy(sentence=sentence, code=code)


MEMORISE = Remedy(
    sentence="If one batch is to be learned by heart, say so to the Trainer.",
    change=Change.OVERFIT_ONE_BATCH,
    code="Trainer(overfit_batches=1)",
)
