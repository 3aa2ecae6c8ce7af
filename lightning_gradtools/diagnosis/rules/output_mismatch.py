"""An output that cannot be what the loss asks for: constant, clipped, or out of reach of the targets."""

import math
from collections.abc import Iterator, Mapping

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

OUTSIDE = 0.05  # of the targets
UNREACHABLE = 0.01  # of their variance
# Activation function -> the least number that it puts out.
REACH_BELOW: Mapping[str, float] = {
    "relu": 0.0,
    "relu6": 0.0,
    "softplus": 0.0,
    "gelu": -0.17,
    "silu": -0.28,
    "mish": -0.31,
    "hardswish": -0.375,
    "tanh": -1.0,
    "hardtanh": -1.0,
}
_TANHS = ("tanh", "hardtanh")
_NORMALISERS = frozenset({"softmax", "log_softmax", "sigmoid"})
_TAKE_LOGITS = frozenset({"cross_entropy", "binary_cross_entropy_with_logits"})
_REACHES = {
    "relu": "nothing below 0",
    "softplus": "nothing below 0",
    "relu6": "nothing outside 0 and 6",
    "sigmoid": "nothing outside 0 and 1",
    "hardsigmoid": "nothing outside 0 and 1",
    "softmax": "nothing outside 0 and 1",
    "log_softmax": "nothing above 0",
    "tanh": "nothing outside -1 and 1",
    "hardtanh": "nothing outside -1 and 1",
}


def find_output_mismatch(context: RuleContext) -> Iterator[Finding]:
    """What the first steps show of each known loss and of the functions that put out what it is given.

    - A softmax over one unit: the output is 1 whatever the input. No threshold.
    - Logits that come out of a ReLU or its like, or a tanh: a loss over classes or bits asks for any number. And
      probabilities that do, which is known of no number that one of these puts out.
    - More than :data:`OUTSIDE` of the targets beyond what the last function can put out, by more than
      :data:`UNREACHABLE` of their variance, so that noise about a bound is none; or as many rows that do not sum to 1,
      after a softmax. Where several losses are computed it is a warning only once training fails: one of them may
      compare features, not targets.
    """
    yield from worst_by_layer(context, _constant, _clipped, _out_of_reach, _one_of_several)


def _constant(context: RuleContext, call: LossCall) -> Finding | None:
    if not call.constant:
        return None
    function = next(each for each in call.activations if each.endswith("softmax"))
    value = "0" if function == "log_softmax" else "1"
    message = (
        f"{place(call)} has one unit, and a {function} over one unit puts out {value} whatever comes in: the output is"
        f" constant, and every gradient of {call.function} before it is exactly 0"
    )
    remedies = (
        Remedy(
            sentence="For the probability of one class, put a sigmoid in the place of the softmax.",
            code="probability = torch.sigmoid(logit)",
        ),
        Remedy(sentence="For several classes, give the last layer one unit for each; for a number, use no function."),
    )
    evidence = Evidence(quantity="units that the softmax is over", value=1.0, threshold=2.0)
    severity = Severity.CRITICAL if is_only_loss(context) else Severity.WARNING
    return finding_of(Kind.OUTPUT_MISMATCH, context, call, severity, message, evidence, *remedies)


def _clipped(context: RuleContext, call: LossCall) -> Finding | None:
    names = call.activations
    if call.function in _TAKE_LOGITS and call.last in REACH_BELOW:
        bound = call.last
    elif call.function == "binary_cross_entropy" and call.last in REACH_BELOW:
        return _no_probability(context, call)
    elif len(names) > 1 and names[0] in _NORMALISERS and names[1] in REACH_BELOW:
        bound = names[1]
    else:
        return None
    bits = call.function.startswith("binary") or "sigmoid" in names
    cut = "those below 0 are cut off, and get no gradient"
    if bound in _TANHS and bits:
        cut = f"no probability can be under {1 / (1 + math.e):.2f} or over {math.e / (1 + math.e):.2f}"
    elif bound in _TANHS:  # one logit at 1, the others at -1
        cut = f"no class can be given a probability over {1 / (1 + (call.outputs - 1) * math.exp(-2)):.2f}"
    elif bits:
        cut = "no probability can be much under 0.5"
    message = f"the logits of {place(call)} pass a {bound} before {call.function}: {cut}"
    remedy = Remedy(sentence=f"Leave the {bound} after the last layer out.", code="logits = last_layer(x)")
    evidence = Evidence(quantity=f"least logit that the {bound} lets pass", value=REACH_BELOW[bound], threshold=-10.0)
    return finding_of(Kind.OUTPUT_MISMATCH, context, call, Severity.WARNING, message, evidence, remedy)


def _no_probability(context: RuleContext, call: LossCall) -> Finding:
    message = (
        f"binary_cross_entropy after {place(call)} asks for probabilities and is given what a {call.last} puts out,"
        " which may be anything"
    )
    remedies = (
        Remedy(
            sentence=f"Put a sigmoid in the place of the {call.last}.",
            code="probability = torch.sigmoid(last_layer(x))",
        ),
        Remedy(
            sentence="Or give the logit to the loss that asks for it.",
            code="loss = F.binary_cross_entropy_with_logits(last_layer(x), target)",
        ),
    )
    evidence = Evidence(
        quantity=f"least number that the {call.last} puts out", value=REACH_BELOW[call.last], threshold=0
    )
    return finding_of(Kind.OUTPUT_MISMATCH, context, call, Severity.WARNING, message, evidence, *remedies)


def _out_of_reach(context: RuleContext, call: LossCall) -> Finding | None:
    seen = call.measures
    if seen.outside <= OUTSIDE or seen.unreachable <= UNREACHABLE:
        return None
    severity = _with_care(context)
    reaches = _REACHES.get(call.last, "nothing much below 0")
    message = (
        f"{seen.outside:.0%} of the targets of {call.function} lie beyond what {place(call)} can put out: it ends in a"
        f" {call.last}, which gives {reaches}, and the targets go from {seen.lowest:.3g} to {seen.highest:.3g}"
    )
    remedies = [Remedy(sentence=f"Leave the {call.last} after the last layer out.", code="prediction = last_layer(x)")]
    if call.last in ("sigmoid", "hardsigmoid", "softmax", *_TANHS) and seen.highest > seen.lowest:
        low, width = seen.lowest, seen.highest - seen.lowest
        scaled = f"(target - {low:.4g}) / {width:.4g}"
        code = f"target = 2 * {scaled} - 1" if call.last in _TANHS else f"target = {scaled}"
        remedies.append(Remedy(sentence="Or scale the targets to what it can put out.", code=code))
    if seen.whole > 0.999 and seen.lowest >= 0 and seen.highest >= 2:
        remedies.insert(0, classes_remedy(seen.highest))
    evidence = Evidence(
        quantity="share of the targets that the last function cannot put out", value=seen.outside, threshold=OUTSIDE
    )
    return finding_of(Kind.OUTPUT_MISMATCH, context, call, severity, message, evidence, *remedies)


def _one_of_several(context: RuleContext, call: LossCall) -> Finding | None:
    seen = call.measures
    if call.last != "softmax" or call.outputs < 2 or call.function == "cross_entropy" or seen.undistributed <= OUTSIDE:
        return None
    message = (
        f"{place(call)} ends in a softmax, whose outputs sum to 1, and {seen.undistributed:.0%} of the rows of targets"
        f" of {call.function} do not"
    )
    remedy = Remedy(
        sentence="For several labels at once, put a sigmoid in the place of the softmax.",
        code="probabilities = torch.sigmoid(logits)",
    )
    evidence = Evidence(
        quantity="share of rows of targets that do not sum to 1", value=seen.undistributed, threshold=OUTSIDE
    )
    return finding_of(Kind.OUTPUT_MISMATCH, context, call, _with_care(context), message, evidence, remedy)


def _with_care(context: RuleContext) -> Severity:
    return Severity.WARNING if is_only_loss(context) or training_fails(context) else Severity.INFO


RULE = Rule(
    kind=Kind.OUTPUT_MISMATCH,
    order=-40,  # before non-finite values: what the first steps showed holds whatever came of it
    needs=frozenset(),
    find=find_output_mismatch,
    remedies=lambda _: (),
)
