"""The loss does not move, although nothing has been learned yet."""

from collections.abc import Iterator

from lightning_gradtools.diagnosis.finding import Evidence, Finding, Kind, Remedy, Severity
from lightning_gradtools.diagnosis.observation import History
from lightning_gradtools.diagnosis.progress import progress

LEARNED = 0.05
_STEPS = 60

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


def find_stalled_training(history: History) -> Iterator[Finding]:
    """No better than guessing after :data:`_STEPS` steps, and not improving.

    A run that has learned and then stands still has converged; it is not in question. Nor is one whose learning rate is
    still on its way up.
    """
    going = progress(history)
    if going is None or going.steps < _STEPS or not history.observations or history.warming_up():
        return
    if not going.nothing_learned(LEARNED):
        return
    evidence = (
        Evidence("learned, as a share of what there is", going.gain, LEARNED, going.steps),
        Evidence("fall of the loss in its standard errors", going.t, 3.0, going.steps),
    )
    message = f"the loss stands at {going.level:.4g}, no better than guessing, and does not move"
    yield Finding(
        Kind.STALLED_TRAINING, "", history.observations[-1].step, Severity.WARNING, evidence, message, _REMEDY
    )
