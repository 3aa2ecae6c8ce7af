"""Training that does not get anywhere: the loss does not move, or the weights cannot."""

from collections.abc import Iterator

from lightning_gradtools.diagnosis.finding import Evidence, Finding, Kind, Remedy, Severity
from lightning_gradtools.diagnosis.observation import History
from lightning_gradtools.diagnosis.progress import LATE, LITTLE, progress, too_slow

LEARNED = 0.05
_STEPS = 60
NOISE = 0.1  # standard deviation / level of the loss, from which a fall takes longer to see
_NOISY_STEPS = 300
MOVE = 1e-3  # change of a layer's weights over the whole run / weights
_SAMPLES = 8
FADED = 1e-3  # learning rate / the largest so far
EARLY = 0.25  # of the run
HALF_LEARNED = 0.5

_REMEDY = (
    Remedy("Check that inputs and targets belong together: shuffled labels look like this."),
    Remedy("Try the learning rate ten times larger, and ten times smaller.", ("-m optimizer.lr=0.01,0.001,0.0001",)),
    Remedy(
        "See whether the network can learn one batch by heart.",
        ("debug=overfit_batches",),
        "Trainer(overfit_batches=1)",
    ),
    Remedy("Lower the weight decay.", ("optimizer.weight_decay=0",)),
)
_REMEDY_STILL = (
    Remedy("Raise the learning rate, a hundredfold to begin with.", ("optimizer.lr=0.01",)),
    Remedy(
        "Raise the bound on the gradient norm, if the gradient is clipped.",
        ("callbacks.gradient_clipping.max_norm=1.0",),
    ),
)
_REMEDY_FADED = (
    Remedy(
        "Let the schedule last as long as the run: count its steps in optimizer steps.", ("schedule=warmup_cosine",)
    ),
)
_REMEDY_SLOW = (
    Remedy("Try a learning rate ten times larger.", ("-m optimizer.lr=0.1,0.01,0.001",)),
    Remedy("Scale inputs and targets to unit variance."),
)


def find_stalled_training(history: History) -> Iterator[Finding]:
    """The first that holds of the following, unless the learning rate is still on its way up.

    - The weights stand still: at the largest step that it ever took, a layer would change by less than :data:`MOVE`
      of itself in all the steps of the run.
    - No better than a constant prediction after :data:`_STEPS` steps, and not improving.
    - The learning rate has faded in the first quarter of the run, long before half was learned.
    - Half of the run is over, and next to nothing was learned, though the loss falls.

    A run that has learned and then stands still has converged; it is not in question.
    """
    if history.warming_up() or not history.observations:
        return
    for rule in (_weights_stand_still, _no_better_than_baseline, _faded, _too_slow):
        found = list(rule(history))
        yield from found
        if found:
            return


def _weights_stand_still(history: History) -> Iterator[Finding]:
    if history.planned_steps is None or len(history.observations) < _SAMPLES:
        return
    moves = {name: ratio * history.planned_steps for name, ratio in history.largest_update.items()}
    still = [name for name, move in moves.items() if move < MOVE]
    if not still:
        return
    layer = "" if len(still) == len(moves) else _common_path(still, [name for name in moves if name not in still])
    largest = max(moves[name] for name in still)
    message = (
        f"the weights of {layer or 'the whole model'} stand still: at the largest step so far they would change by"
        f" {largest:.1e} of themselves in all {history.planned_steps} steps of the run"
    )
    evidence = (Evidence("change of the weights in the whole run / weights", largest, MOVE, history.step + 1),)
    yield _finding(history, evidence, message, _REMEDY_STILL, layer)


def _common_path(names: list[str], others: list[str]) -> str:
    """Return the innermost module that holds all ``names``, or the first of them if it holds others too."""
    parts = [name.split(".") for name in names]
    depth = 0
    while all(len(each) > depth and each[depth] == parts[0][depth] for each in parts):
        depth += 1
    path = ".".join(parts[0][:depth])
    return names[0] if not path or any(name.startswith(f"{path}.") for name in others) else path


def _no_better_than_baseline(history: History) -> Iterator[Finding]:
    going = progress(history)
    if going is None or going.steps < _STEPS or not going.nothing_learned(LEARNED):
        return
    if going.noise > NOISE * abs(going.level) and len(history.losses) < _NOISY_STEPS:
        return
    evidence = (
        Evidence("learned, as a share of what there is", going.gain, LEARNED, going.steps),
        Evidence("fall of the loss in its standard errors", going.t, 3.0, going.steps),
    )
    message = f"the loss stands at {going.level:.4g}, no better than a constant prediction, and does not move"
    yield _finding(history, evidence, message, _REMEDY)


def _faded(history: History) -> Iterator[Finding]:
    going, latest = progress(history), history.observations[-1]
    if going is None or history.planned_steps is None or going.gain >= HALF_LEARNED or going.improving:
        return
    faded = latest.learning_rate / history.peak_learning_rate
    if faded >= FADED or latest.step >= EARLY * history.planned_steps:
        return
    evidence = (
        Evidence("learning rate / the largest so far", faded, FADED, 1),
        Evidence("learned, as a share of what there is", going.gain, HALF_LEARNED, going.steps),
    )
    message = (
        f"the learning rate has faded to {latest.learning_rate:.1e} at step {latest.step} of {history.planned_steps},"
        f" and the loss stands at {going.level:.4g}"
    )
    yield _finding(history, evidence, message, _REMEDY_FADED)


def _too_slow(history: History) -> Iterator[Finding]:
    going = progress(history)
    if going is None or going.steps < _STEPS or not too_slow(history, going):
        return
    share = history.share_done()
    evidence = (
        Evidence("learned, as a share of what there is", going.gain, LITTLE, going.steps),
        Evidence("steps so far / steps of the run", share, LATE, history.step + 1),
    )
    message = (
        f"after {share:.0%} of the run the loss has come down to {going.level:.4g} only, close to a constant prediction"
    )
    yield _finding(history, evidence, message, _REMEDY_SLOW)


def _finding(
    history: History, evidence: tuple[Evidence, ...], message: str, remedy: tuple[Remedy, ...], layer: str = ""
) -> Finding:
    step = history.observations[-1].step
    return Finding(Kind.STALLED_TRAINING, layer, step, Severity.WARNING, evidence, message, remedy)
