"""Training that does not get anywhere: the loss does not move, or the weights cannot."""

from collections.abc import Iterator

from lightning_gradtools.diagnosis.finding import Change, Evidence, Finding, Kind, Remedy, Severity
from lightning_gradtools.diagnosis.progress import LATE, LITTLE, Progress, patience, too_slow
from lightning_gradtools.diagnosis.remedies import (
    lower_learning_rate,
    lower_weight_decay,
    raise_learning_rate,
    search_learning_rate,
)
from lightning_gradtools.diagnosis.rule import Need, Rule, RuleContext
from lightning_gradtools.diagnosis.updates import LONG_STEP, early_update

LEARNED = 0.05
_STEPS = 60
NOISE = 0.1  # standard deviation / level of the loss, from which a fall takes longer to see
_NOISY_STEPS = 300
MOVE = 1e-3  # change of a layer's weights over the whole run / weights
_SAMPLES = 8
FADED = 1e-3  # learning rate / the largest so far
EARLY = 0.25  # of the run
HALF_LEARNED = 0.5


def find_stalled_training(context: RuleContext) -> Iterator[Finding]:
    """The first that holds of the following, unless the learning rate is still on its way up.

    - The weights stand still: at the largest step that it ever took, a layer would change by less than :data:`MOVE`
      of itself in all the steps of the run.
    - No better than a constant prediction after a third of the run (:func:`~..progress.patience`), and not improving.
    - The learning rate has faded in the first quarter of the run, long before half was learned.
    - Half of the run is over, or four fifths if the loss falls, and next to nothing was learned.

    A run that has learned and then stands still has converged; it is not in question.
    """
    if context.history.warming_up():
        return
    found, going = _weights_stand_still(context), context.progress
    if found is None and going is not None:
        found = _no_better_than_baseline(context, going) or _faded(context, going) or _too_slow(context, going)
    if found is not None:
        yield found


def _weights_stand_still(context: RuleContext) -> Finding | None:
    history = context.history
    if history.planned_steps is None or len(history.observations) < _SAMPLES:
        return None
    moves = {name: ratio * history.planned_steps for name, ratio in history.largest_update.items()}
    still = [name for name, move in moves.items() if move < MOVE]
    if not still:
        return None
    layer = "" if len(still) == len(moves) else _common_path(still, [name for name in moves if name not in still])
    largest = max(moves[name] for name in still)
    message = (
        f"the weights of {layer or 'the whole model'} stand still: at the largest step so far they would change by"
        f" {largest:.1e} of themselves in all {history.planned_steps} steps of the run"
    )
    evidence = (
        Evidence(
            quantity="change of the weights in the whole run / weights",
            value=largest,
            threshold=MOVE,
            steps=history.step + 1,
        ),
    )
    remedy = (
        raise_learning_rate(context, times=100, why=", to begin with"),
        Remedy(
            sentence="Raise the bound on the gradient norm, if the gradient is clipped.",
            change=Change.RAISE_MAX_NORM,
            code="GradientClipping(max_norm=10 * max_norm)",
        ),
    )
    return _finding(context, evidence, message, remedy, layer)


def _common_path(names: list[str], others: list[str]) -> str:
    """Return the innermost module that holds all ``names``, or the first of them if it holds others too."""
    parts = [name.split(".") for name in names]
    depth = 0
    while all(len(each) > depth and each[depth] == parts[0][depth] for each in parts):
        depth += 1
    path = ".".join(parts[0][:depth])
    return names[0] if not path or any(name.startswith(f"{path}.") for name in others) else path


def _no_better_than_baseline(context: RuleContext, going: Progress) -> Finding | None:
    if context.history.step + 1 < patience(context.history) or not going.nothing_learned(LEARNED):
        return None
    if going.noise > NOISE * abs(going.level) and len(context.history.losses) < _NOISY_STEPS:
        return None
    evidence = (
        Evidence(
            quantity="learned, as a share of what there is", value=going.gain, threshold=LEARNED, steps=going.steps
        ),
        Evidence(quantity="fall of the loss in its standard errors", value=going.t, threshold=3.0, steps=going.steps),
    )
    beside = "no better than a constant prediction" if going.has_baseline else f"where it began ({going.start:.4g})"
    message = f"the loss stands at {going.level:.4g}, {beside}, and does not move"
    return _finding(context, evidence, message, severity=_severity(going))


def _faded(context: RuleContext, going: Progress) -> Finding | None:
    history, latest = context.history, context.latest
    if history.planned_steps is None or going.gain >= HALF_LEARNED or going.improving:
        return None
    faded = latest.learning_rate / history.peak_learning_rate
    if faded >= FADED or latest.step >= EARLY * history.planned_steps:
        return None
    evidence = (
        Evidence(quantity="learning rate / the largest so far", value=faded, threshold=FADED, steps=1),
        Evidence(
            quantity="learned, as a share of what there is", value=going.gain, threshold=HALF_LEARNED, steps=going.steps
        ),
    )
    message = (
        f"the learning rate has faded to {latest.learning_rate:.1e} at step {latest.step} of {history.planned_steps},"
        f" and the loss stands at {going.level:.4g}"
    )
    remedy = Remedy(
        sentence="Let the schedule last as long as the run: count its steps in optimizer steps.",
        change=Change.SCHEDULE_OVER_RUN,
        code="WarmupCosineSchedule()",
    )
    return _finding(context, evidence, message, (remedy,))


def _too_slow(context: RuleContext, going: Progress) -> Finding | None:
    history = context.history
    if going.steps < _STEPS or not too_slow(history, going):
        return None
    share = history.share_done()
    evidence = (
        Evidence(
            quantity="learned, as a share of what there is", value=going.gain, threshold=LITTLE, steps=going.steps
        ),
        Evidence(quantity="steps so far / steps of the run", value=share, threshold=LATE, steps=history.step + 1),
    )
    beside = "close to that of a constant prediction" if going.has_baseline else f"from {going.start:.4g}"
    message = f"after {share:.0%} of the run the loss has come down to {going.level:.4g} only, {beside}"
    rate = lower_learning_rate if early_update(history) >= LONG_STEP else raise_learning_rate
    remedy = (rate(context), Remedy(sentence="Scale inputs and targets to unit variance."))
    return _finding(context, evidence, message, remedy, severity=_severity(going))


def _severity(going: Progress) -> Severity:
    """Where the baseline loss is not known, nobody can tell what there is to learn."""
    return Severity.WARNING if going.has_baseline else Severity.INFO


def _finding(
    context: RuleContext,
    evidence: tuple[Evidence, ...],
    message: str,
    remedy: tuple[Remedy, ...] = (),
    layer: str = "",
    severity: Severity = Severity.WARNING,
) -> Finding:
    return Finding(
        kind=Kind.STALLED_TRAINING,
        layer=layer,
        step=context.latest.step,
        severity=severity,
        evidence=evidence,
        message=message,
        remedy=remedy,
    )


def _remedies(context: RuleContext) -> tuple[Remedy, ...]:
    long_steps = early_update(context.history) >= LONG_STEP
    rate = (lower_learning_rate(context, why=": its first steps were long"),) if long_steps else ()
    return (
        *rate,
        Remedy(sentence="Check that inputs and targets belong together: shuffled labels look like this."),
        search_learning_rate(context),
        Remedy(
            sentence="See whether the network can learn one batch by heart.",
            change=Change.OVERFIT_ONE_BATCH,
            code="Trainer(overfit_batches=1)",
        ),
        lower_weight_decay(),
    )


RULE = Rule(
    kind=Kind.STALLED_TRAINING,
    order=80,
    needs=frozenset({Need.OBSERVATIONS}),
    find=find_stalled_training,
    remedies=_remedies,
)
