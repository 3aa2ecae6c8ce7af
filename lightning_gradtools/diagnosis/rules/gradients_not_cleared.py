"""Gradients of one step that are still there when those of the next are added to them."""

from collections.abc import Iterator

from lightning_gradtools.diagnosis.finding import Evidence, Finding, Kind, Remedy, Severity
from lightning_gradtools.diagnosis.places import in_words, place, trained_layers
from lightning_gradtools.diagnosis.rule import Need, Rule, RuleContext

_NEEDED = 2  # steps in a row of those that were looked at: once may be meant

_REMEDY = (
    Remedy(
        sentence=(
            "Clear them between a step and the next backward pass. Under automatic optimisation Lightning does, unless"
            " optimizer_zero_grad is overridden without it; under manual optimisation it is the training step's to do."
        ),
        code="optimizer.zero_grad()",
    ),
)


def find_gradients_not_cleared(context: RuleContext) -> Iterator[Finding]:
    """The first backward pass after an optimizer's step found that step's gradients, untouched and not zero.

    Exact, without a threshold. Accumulation is no such thing: it begins with cleared gradients after each step.
    """
    history = context.history
    # The first ones are kept: what they show once is true of the whole run.
    seen = {each.step: each for each in (*history.first_observations, *history.observations)}
    known = [each for each in seen.values() if each.loop.uncleared is not None][-_NEEDED:]
    if len(known) < _NEEDED or not all(each.loop.uncleared for each in known):
        return
    latest = known[-1]
    names = latest.loop.uncleared or ()
    yield Finding(
        kind=Kind.GRADIENTS_NOT_CLEARED,
        layer=place(names, trained_layers(context.history)),
        step=context.latest.step,
        severity=Severity.CRITICAL,
        evidence=(
            Evidence(
                quantity="norm of the gradients left over from the step before",
                value=latest.loop.left_over,
                threshold=0.0,
                steps=latest.step - known[0].step + 1,
            ),
            Evidence(quantity="parameters whose gradient is not cleared", value=len(names), threshold=0.0),
        ),
        message=(
            f"gradients are not cleared between steps: those of {in_words(names)} (norm {latest.loop.left_over:.3g})"
            " are still there when the next step's are added, so each step repeats all those before it"
        ),
    )


RULE = Rule(
    kind=Kind.GRADIENTS_NOT_CLEARED,
    order=12,
    needs=frozenset({Need.OBSERVATIONS}),
    find=find_gradients_not_cleared,
    remedies=lambda _: _REMEDY,
)
