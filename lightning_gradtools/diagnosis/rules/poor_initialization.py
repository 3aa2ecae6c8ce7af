"""Weights from which training cannot start well: units that are all alike, signals that die or blow up on their way."""

from collections.abc import Iterator

from lightning_gradtools.diagnosis.finding import Evidence, Finding, Kind, Remedy, Severity
from lightning_gradtools.diagnosis.progress import patience, too_slow
from lightning_gradtools.diagnosis.remedies import HE_INIT, NORMALISE, SCALE_INPUTS
from lightning_gradtools.diagnosis.rule import Need, Rule, RuleContext
from lightning_gradtools.diagnosis.rules.vanishing_gradient import RATIO, end_to_end

SIGNAL = 1e3  # largest over smallest deviation over samples of the layers' outputs
LOSS = 10.0  # times the baseline loss
_LOSSES = 20
_EARLY = 4  # the latest step at which units that are alike tell of the initial weights


def find_poor_initialization(context: RuleContext) -> Iterator[Finding]:
    """Symmetry, which training can never break; and a signal that changes a thousandfold, if nothing is learned.

    Symmetry is exact: all units of a layer have the same weights *and* receive the same gradient. A zero-initialised
    layer whose units receive different gradients is healthy.
    """
    for part in (_alike, _signal, _first_loss):
        found = part(context)
        if found is not None:
            yield found
            return


def _alike(context: RuleContext) -> Finding | None:
    seen = [each for each in context.history.first_observations if each.step <= _EARLY][:2]
    identical = [{layer.name for layer in each.layers if layer.identical} for each in seen]
    alike = [layer.name for layer in seen[0].layers if all(layer.name in each for each in identical)]
    if not alike or len(seen) < 2:
        return None
    more = f" (so do those of {len(alike) - 1} more layers)" if len(alike) > 1 else ""
    return Finding(
        kind=Kind.POOR_INITIALIZATION,
        layer=alike[0],
        step=context.latest.step,
        severity=Severity.CRITICAL,
        evidence=(
            Evidence(
                quantity="layers whose units are all alike",
                value=len(alike),
                threshold=0,
                steps=context.latest.step + 1,
            ),
        ),
        message=(
            f"all units of {alike[0]} start with the same weights and receive the same gradient: they stay one unit"
            + more
        ),
    )


def _signal(context: RuleContext) -> Finding | None:
    layers = context.history.first_observations[0].layers
    signals = {layer.name: layer.signal for layer in layers if layer.signal is not None and layer.signal > 0}
    if len(signals) <= 2:
        return None
    low, high = min(signals, key=lambda name: signals[name]), max(signals, key=lambda name: signals[name])
    spread = signals[high] / signals[low]
    if not spread > SIGNAL:
        return None
    names = list(signals)
    dies = names.index(low) > names.index(high)
    return Finding(
        kind=Kind.POOR_INITIALIZATION,
        layer=low if dies else high,
        step=context.latest.step,
        severity=Severity.INFO if dies and _vanishes(context) else _severity(context),
        evidence=(
            Evidence(
                quantity="largest / smallest deviation over samples",
                value=spread,
                threshold=SIGNAL,
                steps=context.latest.step + 1,
            ),
        ),
        message=(
            f"from the initial weights, what tells samples apart {'dies out' if dies else 'blows up'}:"
            f" a deviation of {signals[low]:.1e} at {low}, of {signals[high]:.1e} at {high}"
        ),
    )


def _first_loss(context: RuleContext) -> Finding | None:
    skill = context.history.first_observations[0].skill
    loss = 1.0 - skill if skill is not None else 1.0
    if not loss > LOSS * context.history.offset():
        return None
    return Finding(
        kind=Kind.POOR_INITIALIZATION,
        layer="",
        step=context.latest.step,
        severity=_severity(context, patience(context.history)),
        evidence=(
            Evidence(
                quantity="first loss / loss of a constant prediction",
                value=loss,
                threshold=LOSS,
                steps=context.latest.step + 1,
            ),
        ),
        message=(
            f"from the initial weights the loss is {loss:.3g} times that of a constant prediction: the outputs are far"
            " too large"
        ),
    )


def _vanishes(context: RuleContext) -> bool:
    """Say whether the gradient has died out at first too: by the same factors, which the vanishing gradient tells."""
    return end_to_end(context.history.first_observations[0]) < RATIO


def _severity(context: RuleContext, steps: int = _LOSSES) -> Severity:
    history, going = context.history, context.progress
    steps_so_far, too_high = history.step + 1, LOSS * history.offset()
    if context.nonfinite and context.nonfinite[0].direction != "input data":
        return Severity.CRITICAL  # what began far out has left the range of numbers
    sick = going is not None and (
        (steps_so_far >= steps and going.nothing_learned() and not history.warming_up())
        or (steps_so_far >= max(steps, 2 * _LOSSES) and 1 - going.gain > too_high)  # it comes down, from too high up
        or too_slow(history, going)
    )
    return Severity.WARNING if sick else Severity.INFO


def _remedies(_: RuleContext) -> tuple[Remedy, ...]:
    return (HE_INIT, SCALE_INPUTS, NORMALISE)


RULE = Rule(
    kind=Kind.POOR_INITIALIZATION,
    order=-5,  # before non-finite values, which may follow from it
    needs=frozenset({Need.OBSERVATIONS, Need.FIRST_STEP}),
    find=find_poor_initialization,
    remedies=_remedies,
)
