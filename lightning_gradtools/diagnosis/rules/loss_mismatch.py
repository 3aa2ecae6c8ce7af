"""A loss that is given what it was not made for: probabilities for logits, classes for numbers, crossed shapes."""

from collections.abc import Iterator

from lightning_gradtools.diagnosis.contract_findings import (
    classes_remedy,
    finding_of,
    is_only_loss,
    place,
    worst_by_layer,
)
from lightning_gradtools.diagnosis.contracts import LossCall
from lightning_gradtools.diagnosis.failing import training_fails
from lightning_gradtools.diagnosis.finding import Evidence, Finding, Kind, Remedy, Severity
from lightning_gradtools.diagnosis.rule import Rule, RuleContext

MOST_ROWS = 0.99  # of a batch
HALF = 0.5
BEYOND = 0.05  # of the targets, by more than smoothed or noisy labels are
_LARGEST_CLASS = 50.0  # whole numbers beyond it are more often measured than classes
_REGRESSION = frozenset({"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"})
_OVER_CLASSES = frozenset({"cross_entropy", "nll_loss"})
_SQUASHES = frozenset({"softmax", "sigmoid"})


def find_loss_mismatch(context: RuleContext) -> Iterator[Finding]:
    """What the first steps show of each known loss and of what it is given.

    Exact, and a warning or worse: a loss over one class (critical where it is the only one); shapes such as [n, 1] and
    [n], which compare every prediction with every target; probabilities where logits are asked for, and other numbers
    where log-probabilities are; binary cross-entropy of targets that are neither bits nor shares. Log-probabilities
    given to cross-entropy are harmless.

    Unusual, and so ``info`` until training fails: a regression loss on bits, one-hot rows (Brier's score is one, and a
    good one) or small whole numbers from 0 or 1 (which may be counts or ratings), binary cross-entropy after a softmax,
    and cross-entropy of targets that do not sum to 1, unless some are negative.
    """
    yield from worst_by_layer(
        context,
        _one_class,
        _crossed,
        _probabilities,
        _no_log_probabilities,
        _not_bits,
        _no_distribution,
        _classes_as_numbers,
        _bits_of_one_distribution,
    )


def _one_class(context: RuleContext, call: LossCall) -> Finding | None:
    if call.function not in _OVER_CLASSES or call.outputs != 1 or call.constant:
        return None
    message = f"{call.function} over the one output of {place(call)} is the same whatever comes out: nothing is learned"
    remedies = (
        Remedy(
            sentence="For two classes with one unit, use binary cross-entropy.",
            code="loss = F.binary_cross_entropy_with_logits(logit.squeeze(1), target.float())",
        ),
        Remedy(sentence="For several classes, give the last layer one unit for each."),
    )
    evidence = Evidence(quantity="classes", value=1.0, threshold=2.0)
    severity = Severity.CRITICAL if is_only_loss(context) else Severity.WARNING
    return finding_of(Kind.LOSS_MISMATCH, context, call, severity, message, evidence, *remedies)


def _crossed(context: RuleContext, call: LossCall) -> Finding | None:
    if not call.crossed:
        return None
    message = (
        f"{call.function} is given shapes {call.shapes} after {place(call)}, and so compares every prediction with"
        " every target: the best answer is their mean"
    )
    remedy = Remedy(
        sentence="Give prediction and target the same shape.", code="target = target.reshape(prediction.shape)"
    )
    evidence = Evidence(quantity="losses in which shapes differ", value=1.0, threshold=0.0)
    return finding_of(Kind.LOSS_MISMATCH, context, call, Severity.WARNING, message, evidence, remedy)


def _probabilities(context: RuleContext, call: LossCall) -> Finding | None:
    """Find probabilities where logits are asked for: known by the function that put them out, or by their sum."""
    asks_for, names = call.function, call.activations
    if asks_for in _OVER_CLASSES and names[:1] == ("log_softmax",):
        names, asks_for = names[1:], "log_softmax"
    elif asks_for == "binary_cross_entropy" and names[:1] == ("sigmoid",):
        names, asks_for = names[1:], "sigmoid"
    if asks_for not in ("cross_entropy", "log_softmax", "sigmoid", "binary_cross_entropy_with_logits"):
        return None
    squashed = names[0] if names and names[0] in _SQUASHES else ""
    sums_to_one = asks_for == "cross_entropy" and call.measures.simplex > MOST_ROWS
    if call.constant or not (squashed or sums_to_one):
        return None
    what = f"a {squashed} comes before it" if squashed else "each row is at least 0 and sums to 1"
    message = (
        f"{asks_for} asks for logits and is given probabilities after {place(call)} ({what}): it squashes them once"
        " more, so that even a perfect answer keeps a loss, and gradients are small"
    )
    remedies = [
        Remedy(
            sentence=f"Leave the {squashed or 'softmax'} out of the training step: {asks_for} has its own.",
            code="logits = last_layer(x)",
        )
    ]
    if asks_for == "cross_entropy":
        code = "loss = F.nll_loss(probabilities.clamp(min=1e-8).log(), target)"
        remedies.append(Remedy(sentence="Or take the logarithm, and the loss that asks for it.", code=code))
    elif call.function == "binary_cross_entropy_with_logits":
        code = "loss = F.binary_cross_entropy(probabilities, target)"
        remedies.append(Remedy(sentence="Or use the loss that asks for probabilities.", code=code))
    share = call.measures.simplex if sums_to_one else 1.0
    evidence = Evidence(quantity="share of what it is given that are probabilities", value=share, threshold=MOST_ROWS)
    return finding_of(Kind.LOSS_MISMATCH, context, call, Severity.WARNING, message, evidence, *remedies)


def _no_log_probabilities(context: RuleContext, call: LossCall) -> Finding | None:
    """Find numbers the exponentials of which sum to more than 1, or to less though a log-softmax made them.

    Less than 1 is no fault by itself: a part of the probability may be another branch's.
    """
    if call.function != "nll_loss" or call.constant or call.last == "sigmoid":
        return None
    seen = call.measures
    axis = call.last == "log_softmax" and max(seen.light, seen.heavy) > HALF
    if not axis and seen.heavy <= HALF:
        return None
    why = (
        "the log_softmax before it sums over another dimension than that of the classes"
        if axis
        else f"it is given what a {call.last} puts out"
        if call.last
        else "it is given logits"
    )
    message = (
        "nll_loss asks for log-probabilities, whose exponentials sum to 1 over classes; after"
        f" {place(call)} they do not: {why}"
    )
    remedy = (
        Remedy(sentence="Sum over the classes.", code="log_probabilities = logits.log_softmax(dim=1)")
        if axis
        else Remedy(
            sentence="Give logits to cross_entropy, without a softmax.", code="loss = F.cross_entropy(logits, target)"
        )
    )
    value = max(seen.heavy, seen.light if axis else 0.0)
    evidence = Evidence(quantity="share of rows that are no log-probabilities", value=value, threshold=HALF)
    return finding_of(Kind.LOSS_MISMATCH, context, call, Severity.WARNING, message, evidence, remedy)


def _not_bits(context: RuleContext, call: LossCall) -> Finding | None:
    seen = call.measures
    if call.function != "binary_cross_entropy_with_logits" or seen.beyond <= BEYOND:
        return None
    message = (
        f"{call.function} after {place(call)} asks for targets from 0 to 1, and {seen.beyond:.0%} of them are not:"
        f" they go from {seen.lowest:.3g} to {seen.highest:.3g}, so the loss has no lower bound"
    )
    remedies = []
    if seen.whole > MOST_ROWS and seen.lowest >= 0:
        remedies.append(classes_remedy(seen.highest))
    elif seen.whole > MOST_ROWS and (seen.lowest, seen.highest) == (-1.0, 1.0):
        remedies.append(Remedy(sentence="Make 0 and 1 of -1 and 1.", code="target = (target + 1) / 2"))
    else:
        width = seen.highest - seen.lowest
        code = f"target = (target - {seen.lowest:.4g}) / {width:.4g}"
        remedies.append(Remedy(sentence="Scale the targets to lie between 0 and 1.", code=code))
    remedies.append(
        Remedy(sentence="If they are numbers, use squared error.", code="loss = F.mse_loss(prediction, target)")
    )
    evidence = Evidence(quantity="share of targets far outside 0 and 1", value=seen.beyond, threshold=BEYOND)
    return finding_of(Kind.LOSS_MISMATCH, context, call, Severity.WARNING, message, evidence, *remedies)


def _no_distribution(context: RuleContext, call: LossCall) -> Finding | None:
    seen = call.measures
    if call.function != "cross_entropy" or seen.undistributed <= BEYOND:
        return None
    message = (
        f"cross_entropy after {place(call)} asks for a class, or for a distribution over classes, and"
        f" {seen.undistributed:.0%} of the rows of targets do not sum to 1: they go from {seen.lowest:.3g} to"
        f" {seen.highest:.3g}"
    )
    remedies = (
        Remedy(
            sentence="For several labels at once, use binary cross-entropy.",
            code="loss = F.binary_cross_entropy_with_logits(logits, target)",
        ),
        Remedy(sentence="For numbers, use squared error.", code="loss = F.mse_loss(prediction, target)"),
    )
    severity = Severity.WARNING if seen.lowest < 0 or training_fails(context) else Severity.INFO
    evidence = Evidence(
        quantity="share of rows of targets that do not sum to 1", value=seen.undistributed, threshold=BEYOND
    )
    return finding_of(Kind.LOSS_MISMATCH, context, call, severity, message, evidence, *remedies)


def _classes_as_numbers(context: RuleContext, call: LossCall) -> Finding | None:
    seen = call.measures
    if call.function not in _REGRESSION or seen.lowest == seen.highest:
        return None
    if call.outputs > 1 and seen.one_hot > MOST_ROWS:
        kind = f"one-hot rows of {call.outputs} classes"
        share, advised = seen.one_hot, "loss = F.cross_entropy(logits, target.argmax(1))"
        remedy = Remedy(sentence="For classes, use cross_entropy of logits.", code=advised)
    elif call.outputs == 1 and seen.bits > MOST_ROWS:
        kind, share = "0 or 1 each", seen.bits
        advised = "loss = F.binary_cross_entropy_with_logits(logit, target)"
        remedy = Remedy(sentence="For two classes, use binary cross-entropy of the logit.", code=advised)
    elif call.outputs == 1 and seen.whole > MOST_ROWS and 0 <= seen.lowest <= 1 and seen.highest <= _LARGEST_CLASS:
        kind, share = f"whole numbers from {seen.lowest:.0f} to {seen.highest:.0f}", seen.whole
        remedy = classes_remedy(seen.highest)
    else:
        return None
    message = (
        f"{call.function} after {place(call)} is a loss for numbers, and its targets are {kind}: if they are classes,"
        " cross-entropy learns them better"
    )
    severity = Severity.WARNING if training_fails(context) else Severity.INFO
    evidence = Evidence(quantity=f"share of targets that are {kind}", value=share, threshold=MOST_ROWS)
    return finding_of(Kind.LOSS_MISMATCH, context, call, severity, message, evidence, remedy)


def _bits_of_one_distribution(context: RuleContext, call: LossCall) -> Finding | None:
    """Two classes are left out: binary cross-entropy after a softmax over them is twice the cross-entropy."""
    seen = call.measures
    if call.function != "binary_cross_entropy" or call.last != "softmax" or call.constant:
        return None
    if call.outputs < 3 or seen.one_hot <= MOST_ROWS:
        return None
    message = (
        f"binary_cross_entropy takes each of the {call.outputs} outputs of {place(call)} for a question of its own,"
        " and a softmax makes one distribution of them"
    )
    remedy = Remedy(
        sentence="For one class out of several, use cross_entropy of logits.",
        code="loss = F.cross_entropy(logits, target.argmax(1))",
    )
    severity = Severity.WARNING if training_fails(context) else Severity.INFO
    evidence = Evidence(quantity="share of targets that are one-hot rows", value=seen.one_hot, threshold=MOST_ROWS)
    return finding_of(Kind.LOSS_MISMATCH, context, call, severity, message, evidence, remedy)


RULE = Rule(
    kind=Kind.LOSS_MISMATCH,
    order=-30,  # before non-finite values: what the first steps showed holds whatever came of it
    needs=frozenset(),
    find=find_loss_mismatch,
    remedies=lambda _: (),
)
